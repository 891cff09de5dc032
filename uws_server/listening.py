"""Hosts to listen on: how they are spelled, how this machine reaches them, and a socket that listens."""

from __future__ import annotations

import socket

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_BACKLOG = 4096


class CannotListen(Exception):
    """An address cannot be had; the message says which and why."""


def bracketed(host: str) -> str:
    """A host as it stands before a port, in URLs and Host headers: an IPv6 address in brackets (RFC 3986)."""
    return f"[{host}]" if ":" in host else host


def reached(host: str) -> str:
    """By which address this machine reaches what listens on ``host``."""
    return _ANY.get(host, host)


def listen(host: str, port: int, setting: str = "--port") -> socket.socket:
    """A listening socket.

    :param setting: by which the operator names another port.
    :raises CannotListen: the address cannot be had, such as a port that is taken: starting again may help.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"cannot listen on {host} port {port}: {error.strerror or error}; {setting} names another"
        ) from error
    return listener
