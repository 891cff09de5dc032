"""Where a job can run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from job_templates.amounts import write_cores, write_size
from job_templates.template import Template
from uws_server.domain.errors import BadRequest
from uws_server.domain.runspec import Resources
from uws_server.store.base import Capacity


class Site(Protocol):
    """What the service layer knows of a place where jobs run."""

    @property
    def name(self) -> str:
        """As the config calls it."""

    @property
    def kinds(self) -> frozenset[str]:
        """Which kinds of run spec it can run: notebook, command, container."""

    @property
    def capacity(self) -> Capacity:
        """What it can run at once; no attempt gets more.

        Cost: none, or a GET of Redis where the site's own machine says it.
        """


def site_for(sites: Iterable[Site], template: Template, resources: Resources) -> Site:
    """The site that the job goes to: the first that can run it.

    Cost: the capacity of each site up to that one, read once.

    :raises BadRequest: no site could ever run it: it would wait for ever, and its owner's line with it.
    """
    sites = tuple(sites)
    able = [site for site in sites if template.kind in site.kinds]
    if not able:
        names = ", ".join(site.name for site in sites) or "none"
        raise BadRequest(
            f"service {template.name!r} needs a site that can run a {template.kind}; sites here: {names}"
        )
    rooms = []
    for site in able:
        room = site.capacity
        rooms.append(room)
        if (
            resources.cpu_milli <= room.cpu_milli
            and resources.memory_bytes <= room.memory_bytes
            and resources.gpu <= room.gpu
        ):
            return site
    cpu = max(room.cpu_milli for room in rooms)
    if resources.cpu_milli > cpu:
        raise BadRequest(
            f"the job asks for {write_cores(resources.cpu_milli)} cores (CPU) and no site here has more "
            f"than {write_cores(cpu)}"
        )
    gpu = max(room.gpu for room in rooms)
    if resources.gpu > gpu:
        has = f"has more than {gpu}" if gpu else "has any"
        raise BadRequest(f"the job asks for {resources.gpu} GPU and no site here {has}")
    memory = max(room.memory_bytes for room in rooms) // 1024**2 * 1024**2
    raise BadRequest(
        f"the job asks for {write_size(resources.memory_bytes)} of memory (MEMORY) and no site here has "
        f"more than {write_size(memory)} for it"
    )
