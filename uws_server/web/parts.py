"""What the web edge is given: the use cases it calls, and how it is to behave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from job_templates.catalog import Catalog
from uws_server.auth.anonymous import Anonymous
from uws_server.auth.base import Authenticator
from uws_server.service.door import Door
from uws_server.service.jobs import Jobs
from uws_server.service.results import Results
from uws_server.storage.base import ObjectStore
from uws_server.storage.links import Links
from uws_server.store.base import JobStore


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request may bring and how long it may take.

    ``body_bytes`` bounds a body without files, ``upload_bytes`` one with files. ``patience`` is how many
    seconds each 64 KiB of a body may take. ``wait_seconds`` is the longest WAIT (UWS-48).
    """

    body_bytes: int = 16 * 1024**2
    upload_bytes: int = 1024**3
    patience: float = 30
    wait_seconds: float = 55


@dataclass(frozen=True, slots=True)
class Parts:
    """The edge's surroundings.

    ``base_url`` is "" to take scheme and host from each request, whose host has to be an address then, or
    one of ``names``. ``authenticator`` finds the caller of a request. ``draining`` says that the server is
    about to stop and takes no new jobs. ``redirect_bytes`` is the size from which a result that no
    browser would run is fetched from the object store itself; 0 streams everything. ``own_machine`` says
    that only people of this machine are to reach us, and no web pages of others through their browsers.
    ``operator_port`` is where metrics are told and nothing else is done, 0 for nowhere.
    """

    jobs: Jobs
    results: Results
    door: Door
    catalog: Catalog
    store: JobStore
    objects: ObjectStore
    links: Links
    base_url: str = ""
    names: frozenset[str] = frozenset()
    bounds: Bounds = field(default_factory=Bounds)
    authenticator: Authenticator = field(default_factory=Anonymous)
    draining: Callable[[], bool] = _never
    redirect_bytes: int = 0
    own_machine: bool = False
    operator_port: int = 0
