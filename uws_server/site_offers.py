"""What a site can run, for whoever places jobs: by its settings or, if these leave it open, by its worker."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pydantic import ByteSize

from uws_server.settings import Site
from uws_server.store.base import Capacity, JobStore

_KINDS = {
    "local": frozenset({"notebook", "command"}),
    "kubernetes": frozenset({"notebook", "command", "container"}),
}
_UNKNOWN = Capacity(10**9, 10**12, 2**62, 10**6)


@dataclass(frozen=True, slots=True)
class SiteOffer:
    """What the service layer knows of a site."""

    name: str
    kinds: frozenset[str]
    capacity: Capacity


@dataclass(frozen=True, slots=True)
class ReportedSite:
    """A site whose own machine says what it can run: web may be on another one."""

    name: str
    kinds: frozenset[str]
    store: JobStore

    @property
    def capacity(self) -> Capacity:
        """What its worker last said; everything before the first word, as a job waits and is not refused."""
        return self.store.capacity(self.name) or _UNKNOWN


def stated(site: Site) -> bool:
    """Whether the settings alone say what a site can run, so that nobody needs to ask it."""
    return site.runner == "kubernetes" or bool(site.jobs and site.cpu and site.memory)


def capacity(site: Site) -> Capacity:
    """What a site runs at once: what the settings leave open is what this machine has.

    A cluster has room of its own, which may grow: what is too much for it now waits there.
    """
    if site.runner == "kubernetes":
        return Capacity(
            site.jobs or 1000,
            int(site.cpu * 1000) or _UNKNOWN.cpu_milli,
            int(site.memory) or _UNKNOWN.memory_bytes,
            site.kubernetes.gpu,
        )
    processors = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10 * 9
    cpu = site.cpu or processors
    return Capacity(site.jobs or max(1, int(cpu)), int(cpu * 1000), int(site.memory or memory))


def measured(site: Site) -> Site:
    """The settings of a site, with what they leave open of this machine measured."""
    if site.runner != "local":
        return site
    room = capacity(site)
    found = {"jobs": room.jobs, "cpu": room.cpu_milli / 1000, "memory": ByteSize(room.memory_bytes)}
    return site.model_copy(update=found)


def offered(name: str, site: Site, store: JobStore) -> SiteOffer | ReportedSite:
    """What the site of this name offers."""
    kinds = _KINDS[site.runner]
    return SiteOffer(name, kinds, capacity(site)) if stated(site) else ReportedSite(name, kinds, store)
