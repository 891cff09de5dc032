"""The one place that knows the concrete classes. Each is imported when it is asked for."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from functools import cached_property
from typing import TYPE_CHECKING

from uws_server import __version__, metrics
from uws_server.config_file import BadConfig
from uws_server.domain.errors import Refused
from uws_server.domain.instants import Instant
from uws_server.domain.runspec import AttemptLimits, RunSpec
from uws_server.object_calls import CountedObjects
from uws_server.readiness import Leases, Pulse
from uws_server.settings import Settings
from uws_server.site_offers import ReportedSite, SiteOffer, offered
from uws_server.storage.base import Aside, directly
from uws_server.store.base import SCHEMA

if TYPE_CHECKING:
    from job_templates.catalog import Catalog
    from uws_server.auth.base import Authenticator
    from uws_server.domain.job import Job
    from uws_server.queue.rq import RqQueue
    from uws_server.service.changes import Changes
    from uws_server.service.door import Door
    from uws_server.service.jobs import Jobs
    from uws_server.service.reconcile import Reconciler
    from uws_server.service.waiting import Waiting
    from uws_server.storage.base import ObjectStore
    from uws_server.storage.links import Links
    from uws_server.store.base import Lease
    from uws_server.store.redis import RedisStore

log = logging.getLogger(__name__)

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"


class NotDurable(Exception):
    """The store may lose what it acknowledges; ``str()`` has one sentence a line."""


class NewerStore(Exception):
    """A later version of this program has written the store, in a way that this one may misread."""


def clock() -> Instant:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def new_job_id() -> str:
    """A digit and 25 characters of base 32: 128 random bits, never to be guessed."""
    number = secrets.randbelow(10 * 32**25)
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(0, 125, 5)]
    return str(number >> 125) + "".join(reversed(digits))


def unique_holder() -> str:
    """A name for this process where leases are held."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Services:
    """Everything that a process may need, each made at its first use.

    ``signs`` says whether it signs links to our own storage route; the secret is not read where it does not.
    """

    def __init__(self, settings: Settings, *, signs: bool = True) -> None:
        if not settings.redis.url:
            raise BadConfig("redis.url is not set; only `uws-server up` brings a Redis of its own")
        self.settings = settings
        self._signs = signs
        self.clock = clock
        self.aside: Aside = directly  # the web sets it, before the object store is asked for
        self.pulse = Pulse()
        self.leases = Leases(self.pulse)

    @cached_property
    def secret(self) -> bytes:
        """What signs links and tokens."""
        return self.settings.secret()

    @cached_property
    def store(self) -> RedisStore:
        """The job store."""
        from uws_server.store.redis import RedisStore

        def leased(name: str, held: bool) -> None:
            self.leases.asked(name, held)
            metrics.lease_asked(name, held)

        return RedisStore(self.settings.redis.url, leased=leased)

    @cached_property
    def queue(self) -> RqQueue:
        """What wakes workers."""
        from uws_server.queue.rq import RqQueue, connect

        return RqQueue(connect(self.settings.redis.url))

    @cached_property
    def links(self) -> Links:
        """What signs links to our own storage route."""
        from uws_server.storage.links import Links

        return Links(self.secret, clock=self.clock)

    @cached_property
    def objects(self) -> ObjectStore:
        """The object store.

        :raises BadConfig: there is none such, or its key is wrong.
        :raises StorageUnavailable: its directory cannot be made or written.
        """
        from uws_server.storage.open import Cloud, open_store

        set_ = self.settings.objects
        links = self.links if self._signs else None
        cloud = Cloud(set_.endpoint, set_.public_endpoint, set_.region, set_.credentials_file, int(set_.part))
        try:
            return CountedObjects(open_store(self.settings.objects_url, links, self.aside, cloud))
        except ValueError as error:
            raise BadConfig(f"objects: {error}") from error

    @cached_property
    def catalog(self) -> Catalog:
        """The job templates.

        :raises BadConfig: a template is wrong; file and line are named.
        """
        from job_templates import catalog

        templates = self.settings.templates
        try:
            return catalog.load(templates.directories, templates.shipped)
        except catalog.TemplateErrors as error:
            raise BadConfig(str(error)) from error

    @cached_property
    def authenticator(self) -> Authenticator:
        """Who is asking; for now there is one way to tell."""
        from uws_server.auth.anonymous import Anonymous

        return Anonymous()

    @cached_property
    def changes(self) -> Changes:
        """How jobs change."""
        from uws_server.service.changes import Changes

        def told(before: Job | None, after: Job, lease: Lease | None) -> None:
            watched = lease is not None and lease.name.startswith("watcher:")
            metrics.job_changed(before, after, self.clock(), watched=watched)
            if before and after.attempt > before.attempt > 0:
                log.warning(
                    "job %s: %s",
                    after.id,
                    after.reason,
                    extra={"service": after.service, "site": after.site},
                )
            if after.phase.final and not (before and before.phase.final):
                said = " ".join(after.error.message.split()) if after.error else ""
                log.info(
                    "job %s attempt %d is %s%s",
                    after.id,
                    after.attempt,
                    after.phase.value,
                    f": {said}" if said else "",
                    extra={"service": after.service, "site": after.site, "phase": after.phase.value},
                )

        return Changes(self.store, self.queue, self.clock, told)

    @cached_property
    def waiting(self) -> Waiting:
        """The requests that WAIT. Its `run` must be running in this process."""
        from uws_server.service.waiting import Waiting

        return Waiting(self.store, self.settings.web.waiters)

    @cached_property
    def sites(self) -> dict[str, SiteOffer | ReportedSite]:
        """What each site can run, by the settings or, where these leave something open, by its worker."""
        return {name: offered(name, site, self.store) for name, site in self.settings.sites.items()}

    @cached_property
    def jobs(self) -> Jobs:
        """What clients can do."""
        from uws_server.service.jobs import Jobs, RequestLimits

        limits = self.settings.limits
        return Jobs(
            store=self.store,
            changes=self.changes,
            waiting=self.waiting,
            objects=self.objects,
            catalog=self.catalog,
            sites=self.sites,
            clock=self.clock,
            new_id=new_job_id,
            limits=RequestLimits(
                upload_bytes=limits.upload,
                value_bytes=limits.values,
                parameters=limits.parameters,
                name_chars=limits.name,
                list_jobs=limits.list_jobs,
            ),
        )

    @cached_property
    def door(self) -> Door:
        """What agents can ask."""
        from uws_server.service.door import Door

        most = self.settings.limits.result
        return Door(
            self.store,
            self.changes,
            self.objects,
            self.secret,
            most,
            spec=self._spec_of,
            limits=self._limits_of,
        )

    def _spec_of(self, job: Job) -> RunSpec:
        """What a worker had a site make of a job, for an agent that is told of it at its door."""
        from job_templates.render import render

        return render(self.catalog.get(job.service), job)

    def _limits_of(self, job: Job) -> AttemptLimits:
        """What an attempt at a job may store."""
        from job_templates.render import limits_of

        try:
            return limits_of(self.catalog.get(job.service), job)
        except Refused:  # the template has changed or gone since the job was started
            return AttemptLimits(output_bytes=self.settings.limits.result)

    def reconciler(self, holder: str) -> Reconciler:
        """What time decides, done under a lease of ``holder``."""
        from uws_server.service.reconcile import Reconciler

        return Reconciler(
            store=self.store,
            changes=self.changes,
            queue=self.queue,
            objects=self.objects,
            sites=tuple(self.sites),
            holder=holder,
            archive=self.settings.jobs.at_destruction == "archive",
            seen=metrics.queue_seen,
        )

    def require_durable(self) -> None:
        """Refuse to go on with a store that may lose jobs, unless the settings permit it.

        :raises NotDurable: with the reasons.
        :raises StoreUnavailable: it does not answer.
        """
        if not self.settings.redis.durable:
            return
        if problems := self.store.check():
            raise NotDurable("\n".join((*problems, "redis.durable: false permits that")))

    def require_known(self) -> None:
        """Refuse to go on with a store that a later version of this program has written.

        :raises NewerStore: with what to do.
        :raises StoreUnavailable: it does not answer.
        """
        found = self.store.schema()
        if found > SCHEMA:
            raise NewerStore(
                f"the job store is of version {found}, and uws-server {__version__} knows versions up to "
                f"{SCHEMA}: run the version of uws-server that wrote it, or a later one; nothing was changed"
            )


def build(settings: Settings, *, signs: bool = True) -> Services:
    """The services of one process, on a store that keeps what it acknowledges.

    :param signs: see `Services`.

    :raises BadConfig: the settings cannot be used.
    :raises NotDurable: the store may lose jobs and the settings do not permit that.
    :raises NewerStore: a later version has written the store.
    :raises StoreUnavailable: the store does not answer.
    """
    services = Services(settings, signs=signs)
    services.require_durable()
    services.require_known()
    return services
