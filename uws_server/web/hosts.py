"""By which names this server may be called, on its own machine or where no base URL says how clients see it.

Without a base URL the addresses that we give are made from the Host header, so that whoever chooses it
chooses where they lead. Worse, a web page of others whose name has come to mean our address is served as if
it were ours, and its reader's browser may run code here. An address cannot be made to mean another, and a
name of this machine is its people's; any other name needs `web.base_url`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from uws_server.domain.errors import BadRequest, Forbidden

_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)


def host_of(environ: Mapping[str, Any]) -> str:
    """The host that a request names, with its port; where it names none, the one that it came to.

    :raises BadRequest: it is no host.
    """
    host: str = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    if _HOST.fullmatch(host) is None:
        raise BadRequest("the Host header names no host")
    return host


def refuse_foreign_names(environ: Mapping[str, Any], names: frozenset[str], own_machine: bool) -> None:
    """See that a request calls this server by an address, or by one of its ``names``.

    :param own_machine: whether only addresses of this machine itself count.
    :raises BadRequest: it names no host.
    :raises Forbidden: it names another.
    """
    host = host_of(environ)
    if _known(host, names, own_machine):
        return
    if own_machine:
        raise Forbidden(
            f"this server is for its own machine, which {host[:80]!r} is not; "
            "auth.anonymous: anywhere and web.base_url let others in"
        )
    raise Forbidden(f"this server is not known as {host[:80]!r}; call it by its address, or set web.base_url")


@lru_cache(maxsize=64)
def _known(host: str, names: frozenset[str], own_machine: bool) -> bool:
    match = _HOST.fullmatch(host)
    name = "" if match is None else match[1].strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback or not own_machine
    except ValueError:
        return name in names and not own_machine
