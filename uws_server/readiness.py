"""Whether a process can do its work, for whoever probes it.

What is behind is asked at most once a second, by one thread, however many want to know; nobody waits longer
than two seconds for it. So answers cost at most one question a second, and a silent store holds up nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from uws_server.storage.base import NotStored, ObjectStore, StorageUnavailable
from uws_server.store.base import SCHEMA, JobStore, StoreUnavailable

Check = Callable[[], str]
"""Asks one thing: '' when all is well, else a few words that anybody may read."""

PATIENCE = 2.0
REMEMBERED = 1.0

# s after which a process that does not do what it does again and again is not ready. Each is several times as
# long as that takes when all is well: a lease is asked for every 3 s, a site listed as often, a queue heard
# every 45 s, and a round of the reconciler clears away what may be thousands of objects.
LEASE_SECONDS = 30
LIST_SECONDS = 30
QUEUE_SECONDS = 120
ROUND_SECONDS = 120

_NO_ANSWER = "does not answer"
_NO_LEASE = "neither held nor stood by"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What each thing that was asked has said, '' for all is well."""

    said: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether all is well with all of them."""
        return not any(self.said.values())

    @property
    def lines(self) -> tuple[str, ...]:
        """The same for people."""
        return tuple(f"{name}: {words or 'ok'}" for name, words in self.said.items())


class Readiness:
    """The checks of one process, by name. Thread-safe, and fit for gevent."""

    def __init__(self, checks: Mapping[str, Check], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._asked = {name: _Asked(name, check, monotonic) for name, check in checks.items()}

    def answer(self, name: str = "") -> Answer:
        """How everything is, or the one thing of that ``name``.

        :raises KeyError: there is no such thing.
        """
        asked = {name: self._asked[name]} if name else self._asked
        for one in asked.values():
            one.begin()
        return Answer({name: one.answer() for name, one in asked.items()})


class _Asked:
    """One check, and what it said last."""

    def __init__(self, name: str, check: Check, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._check = check
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._said = ""
        self._said_at = float("-inf")
        self._asked_at = 0.0
        self._over: threading.Event | None = None  # of the asking that goes on

    def begin(self) -> None:
        """Ask, unless that goes on already or was done a moment ago."""
        with self._guard:
            now = self._monotonic()
            if self._over is not None or now - self._said_at <= REMEMBERED:
                return
            self._asked_at, self._over = now, threading.Event()
        threading.Thread(target=self._ask, name=f"readiness {self._name}", daemon=True).start()

    def answer(self) -> str:
        """What was said, waiting for it no longer than the asking may take."""
        with self._guard:
            over = self._over
            left = PATIENCE - (self._monotonic() - self._asked_at)
        if over is not None and not over.wait(max(0.0, left)):
            return _NO_ANSWER
        return self._said

    def _ask(self) -> None:
        try:
            said = self._check()
        except Exception:
            log.exception("it cannot be told how %s is", self._name)
            said = "cannot be told; the log says why"
        with self._guard:
            self._said, self._said_at = said, self._monotonic()
            over, self._over = self._over, None
        if over is not None:
            over.set()


def of_store(store: JobStore) -> Check:
    """Whether the job store answers, and is one that this program can read. One script call."""

    def check() -> str:
        try:
            return "" if store.schema() <= SCHEMA else "is of a later version than this program knows"
        except StoreUnavailable:
            return _NO_ANSWER

    return check


def of_objects(objects: ObjectStore) -> Check:
    """Whether the object store answers. One request for the head of an object that is not there."""

    def check() -> str:
        try:
            objects.head("readiness")
        except NotStored:
            return ""
        except StorageUnavailable:
            return _NO_ANSWER
        return ""

    return check


class Pulse:
    """When each thing that a process does again and again was last done."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._begun = monotonic()
        self._last: dict[str, float] = {}

    def beat(self, what: str) -> None:
        """It was done just now."""
        self._last[what] = self._monotonic()

    def within(self, what: str, seconds: float, words: str) -> Check:
        """That it was done in the last so many seconds, else ``words``."""

        def check() -> str:
            last = self._last.get(what)
            if last is not None and self._monotonic() - last <= seconds:
                return ""
            return f"{words} for {self._monotonic() - (self._begun if last is None else last):.0f} s"

        return check


class Leases:
    """Which leases a process asks for, and holds."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._held: dict[str, bool] = {}

    def asked(self, name: str, held: bool) -> None:
        """The store has said whether this process has the lease."""
        self._held[name] = held
        self._pulse.beat(f"lease {name}")

    def holds(self, name: str) -> bool:
        """Whether it was held when it was last asked for."""
        return self._held.get(name, False)


def of_worker(store: JobStore, pulse: Pulse) -> dict[str, Check]:
    """That Redis answers, and that a worker hears its queue, whose beat is ``queue``."""
    heard = pulse.within("queue", QUEUE_SECONDS, "has not been heard")
    return {"redis": of_store(store), "queue": heard}


def of_watcher(leases: Leases, pulse: Pulse, site: str) -> dict[str, Check]:
    """That a watcher has its lease, and lists its site, the beat ``list``; or that it stands by."""
    lease = f"watcher:{site}"
    listed = pulse.within("list", LIST_SECONDS, "has not been listed in full")
    return {
        "lease": pulse.within(f"lease {lease}", LEASE_SECONDS, _NO_LEASE),
        "site": lambda: listed() if leases.holds(lease) else "",
    }


def of_reconciler(pulse: Pulse) -> dict[str, Check]:
    """That a reconciler has its lease or stands by.

    It asks at the beginning of each round, so that a round that does not end is noticed too.
    """
    return {"lease": pulse.within("lease reconciler", ROUND_SECONDS, _NO_LEASE)}
