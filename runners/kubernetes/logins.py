"""What a pull secret (``kubernetes.io/dockerconfigjson``) says of a registry's user and password. Pure."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from runners.kubernetes.reference import Reference

KEY = ".dockerconfigjson"
_NO_LOGINS = "it holds no logins in the form of dockerconfigjson"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password, or what a registry takes for one."""

    user: str
    password: str


def login(secret: dict[str, Any], image: Reference) -> Login | None:
    """Who pulls an image, from the document of a Secret; None where it does not say.

    As the kubelet reads it: an entry is for a host, or for what lies below a path of it, and the longest path
    has precedence; ``*`` stands for a part of a host's name.

    :raises ValueError: it is no such Secret.
    """
    try:
        entries = _entries(secret)
        fitting = [(name, entry) for name, entry in entries.items() if _fits(_place(name), image)]
        found = [(len(_place(name)), said) for name, entry in fitting if (said := _said(entry))]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(_NO_LOGINS) from error
    return max(found, key=lambda one: one[0])[1] if found else None


def check(secret: dict[str, Any]) -> None:
    """See that a Secret can be read.

    :raises ValueError: it is no such Secret.
    """
    try:
        for entry in _entries(secret).values():
            _said(entry)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(_NO_LOGINS) from error


def _entries(secret: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b64decode(secret["data"][KEY]))["auths"]
    return found


def _place(name: str) -> str:
    """An entry's name as host and path: older ones are the URL of an API."""
    bare = name.removeprefix("https://").removeprefix("http://").rstrip("/")
    return bare.removesuffix("/v1").removesuffix("/v2")


def _fits(place: str, image: Reference) -> bool:
    host, _, path = place.partition("/")
    wanted, given = image.host.split("."), host.split(".")
    return (
        len(wanted) == len(given)
        and all(fnmatchcase(part, pattern) for part, pattern in zip(wanted, given, strict=True))
        and (not path or f"{image.repository}/".startswith(f"{path}/"))
    )


def _said(entry: dict[str, Any]) -> Login | None:
    if entry.get("username"):
        return Login(str(entry["username"]), str(entry.get("password", "")))
    if entry.get("auth"):
        user, colon, password = b64decode(entry["auth"]).decode().partition(":")
        return Login(user, password) if colon else None
    return None
