"""The local runner, its isolation and its directories, from the settings of a site."""

from __future__ import annotations

from pathlib import Path

from runners.base import Unreachable
from runners.local import site_files
from runners.local.isolation import Isolation, IsolationError, LocalSettings, probe
from runners.local.runner import LocalRunner
from uws_server.config_file import BadConfig
from uws_server.settings import Settings, Site, is_loopback

_LOOPBACK = ("127.0.0.0/8", "::1/128")


def isolation(settings: Settings, name: str) -> Isolation:
    """What keeps the site's attempts apart. Tried out, which takes about a tenth of a second.

    :raises BadConfig: what was asked for does not work here, or too little does for whom the server lets in.
    """
    try:
        found = probe(local_settings(settings, settings.sites[name]))
    except IsolationError as error:
        raise BadConfig(f"sites.{name}: {error}") from error
    if not found.sealed and not settings.own_machine:
        raise BadConfig(_too_open(settings, name, found))
    return found


def _too_open(settings: Settings, name: str, found: Isolation) -> str:
    web = settings.web
    if web.base_url or not is_loopback(web.host):
        who = f"the server may not be reached at {web.base_url or web.host}"
    else:
        who = "auth.anonymous may not be anywhere"
    if found.mode == "none":
        return (
            f"site {name} cannot keep user code from the server's own files and keys, so {who}; "
            f"{' '.join(found.lacks)}"
        )
    return (
        f"site {name} shares the machine's network with user code (sites.{name}.network is host), so {who}; "
        f"say sites.{name}.network: none"
    )


def open_runner(settings: Settings, name: str) -> LocalRunner:
    """The runner of one site.

    :raises BadConfig: see `isolation`; or the site's directory is not there any more.
    """
    isolation(settings, name)
    try:
        return LocalRunner(_directory(settings, name), local_settings(settings, settings.sites[name]))
    except Unreachable as error:
        raise BadConfig(f"sites.{name}: {error}") from error


def interrupt(settings: Settings, name: str) -> None:
    """Let a watcher of the site that waits for news look up at once; may be called by a signal handler."""
    site_files.ring(str(_directory(settings, name) / site_files.WATCHERS))


def _directory(settings: Settings, name: str) -> Path:
    return settings.data / "sites" / name


def local_settings(settings: Settings, local: Site) -> LocalSettings:
    """What the local runner is to do, from what the site's settings say."""
    data: Path = settings.data.absolute()
    return LocalSettings(
        isolation=local.isolation,
        uid_first=local.uid_first,
        uid_last=local.uid_last,
        network=local.network,
        file_inputs=tuple(path.absolute() for path in local.file_inputs),
        deny_networks=(*local.deny_networks, *(() if settings.own_machine else _LOOPBACK)),
        read_only=tuple(path.absolute() for path in local.read_only),
        hidden=(data, *(path.absolute() for path in local.hidden)),
    )
