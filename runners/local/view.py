"""What a job sees of this machine's file system, as steps by which the view is put together."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import runners

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc")
_KERNEL = ("/sys/devices/system/cpu",)  # libraries count processors there
_SECRETS = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
    "/etc/security/opasswd", "/etc/ssh", "/etc/ssl/private", "/etc/pki/tls/private", "/etc/letsencrypt",
    "/etc/krb5.keytab", "/etc/kubernetes", "/etc/docker", "/etc/wireguard", "/etc/openvpn",
    "/etc/NetworkManager/system-connections", "/etc/redis", "/etc/valkey", "/etc/uws-server",
)  # fmt: skip
_PACKAGES = ("runners", "uws_server", "job_templates")


def package_root() -> str:
    """The directory from which this package was imported."""
    return str(Path(runners.__path__[0]).resolve().parent)


def view(read_only: tuple[Path, ...], hidden: tuple[Path, ...]) -> list[list[str]]:
    """What a job sees of the machine, in the order in which it is put together.

    The system's and the interpreter's directories and `read_only`, but nothing `hidden` and no secret.

    ``["symlink", path, target]``, ``["bind", path]`` (read-only), and over secrets ``["empty", path]``
    for a directory, ``["null", path]`` for a file.
    """
    steps: list[list[str]] = []
    places: list[str] = []
    for path in _SYSTEM + _KERNEL:
        if os.path.islink(path):
            steps.append(["symlink", path, os.readlink(path)])
        elif os.path.isdir(path):
            places.append(path)
    resolver = os.path.realpath("/etc/resolv.conf")
    if not resolver.startswith("/etc/") and os.path.isfile(resolver):
        places.append(resolver)
    for extra in (*interpreter_paths(), *(str(path) for path in read_only)):
        if os.path.exists(extra) and not _beneath(extra, places):
            places.append(extra)
    steps += [["bind", path] for path in places]
    covered: list[str] = []  # beneath one of these there is nothing to cover
    for real in sorted({os.path.realpath(path) for path in (*_SECRETS, *map(str, hidden))}):
        if os.path.exists(real) and _beneath(real, places) and not _beneath(real, covered):
            steps.append(["empty" if os.path.isdir(real) else "null", real])
            covered.append(real)
    return steps


def interpreter_paths() -> list[str]:
    """What this interpreter needs to run with our packages: its prefixes, and where they are."""
    found = [sys.prefix, sys.base_prefix, sys.exec_prefix]
    link = sys.executable  # each station of the chain of links from a venv to the real thing
    while True:
        above = os.path.dirname(os.path.dirname(link))
        found.append(above if _is_prefix(above) else link)
        if not os.path.islink(link):
            break
        link = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    found += [os.path.realpath(path) for path in list(found)]
    found += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    for name in _PACKAGES:  # not the project's whole directory: more than packages may lie there
        spec = importlib.util.find_spec(name)
        found += list(spec.submodule_search_locations or ()) if spec else []
    return [path for path in dict.fromkeys(found) if path not in ("/", "")]


def _is_prefix(path: str) -> bool:
    """Whether a Python lives here, and it is not somebody's home with a link in its bin."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return os.path.isdir(f"{path}/lib/{version}") or os.path.exists(f"{path}/pyvenv.cfg")


def _beneath(path: str, places: list[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
