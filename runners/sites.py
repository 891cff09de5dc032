"""The runners of the configured sites, made where they are needed: in workers and watchers, never in web."""

from __future__ import annotations

from collections.abc import Iterator

from runners.base import Isolation, Runner
from uws_server.config_file import BadConfig
from uws_server.findings import Finding
from uws_server.settings import Settings, Site


def site(settings: Settings, name: str) -> Site:
    """The settings of one site.

    :raises BadConfig: there is none of this name.
    """
    try:
        return settings.sites[name]
    except KeyError:
        raise BadConfig(f"there is no site {name!r}; there are {', '.join(settings.sites)}") from None


def isolation(settings: Settings, name: str) -> Isolation:
    """What keeps the site's attempts apart. On this machine it is tried out, in about a tenth of a second.

    :raises BadConfig: what was asked for does not work here, or too little does for whom the server lets in.
    """
    match site(settings, name).runner:
        case "local":
            from runners.local import configured

            return configured.isolation(settings, name)
        case "kubernetes":
            from runners.kubernetes.configured import ISOLATION

            return ISOLATION


def examine(settings: Settings, name: str) -> Iterator[Finding]:
    """What a site elsewhere says when it is asked; of this machine there is its isolation alone."""
    if site(settings, name).runner == "kubernetes":
        from runners.kubernetes import examination

        yield from examination.examine(settings, name)


def open_runner(settings: Settings, name: str) -> Runner:
    """The runner of one site.

    :raises BadConfig: see `isolation`; or there is no way to the site.
    """
    match site(settings, name).runner:
        case "local":
            from runners.local import configured

            return configured.open_runner(settings, name)
        case "kubernetes":
            from runners.kubernetes import configured as cluster

            return cluster.open_runner(settings, name)


def agent_url(settings: Settings, name: str) -> str:
    """Where the site's agents find this server, without the door's path."""
    found = site(settings, name)
    return settings.own_url if found.runner == "local" else settings.pods_url(found)


def interrupt(settings: Settings, name: str) -> None:
    """Let a watcher of the site that waits for news look up at once; may be called by a signal handler."""
    if site(settings, name).runner == "local":
        from runners.local import configured

        configured.interrupt(settings, name)
