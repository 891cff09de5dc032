"""One kind of object in a cluster, followed by list and watch, whatever the API server does meanwhile.

A watch is a hint, the list is the truth. Both go on at once, each in a thread of its own, because a list of
ten thousand pods takes seconds in which news must not wait. `Order` says which of their words is news. A
watch is asked for anew every few seconds: only that tells an API server that is silent from one without news.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Protocol

from runners.base import Unreachable
from runners.kubernetes.cluster import ApiRefusal, Cluster, Document

log = logging.getLogger(__name__)

_TURN = 5  # s of one watch
_SOONEST = 1.0  # s between two lists, whoever wants them
_LONGEST = 5.0  # s between two tries
_GONE = 410


class Order:
    """Which word about an object is news, while a list is told page by page and a watch goes on.

    A list shows all objects as they were at one version; an event shows one as it was at another. Versions
    are numbers that grow; they fall only when the cluster's database was restored from a copy.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}  # uid → version
        self._position = 0
        self._watched = 0  # up to which version each event was told
        self._listing = False
        self._asked_at = 0  # the position when the list that is under way was asked for
        self._present: set[str] = set()  # what it has told of
        self._buried: set[str] = set()  # what was deleted since it was asked for
        self._absent: set[str] = (
            set()
        )  # what the last list did not tell of, while its deletion may yet be told

    def __len__(self) -> int:
        return len(self._known)

    def event(self, kind: str, uid: str, version: int) -> bool:
        """Whether this event of a watch is news. A watch that begins anew may repeat what was told."""
        if version <= self._watched:
            return False
        self.reached(version)
        if kind == "DELETED":
            if self._listing:
                self._buried.add(uid)
            return self._known.pop(uid, None) is not None
        if uid in self._buried or version <= self._known.get(uid, -1):
            return False
        self._known[uid] = version
        return True

    def reached(self, version: int) -> None:
        """A watch has told everything up to this version."""
        self._watched = max(self._watched, version)
        self._position = max(self._position, version)

    def asked(self) -> None:
        """A list is asked for: what is deleted from now on it may still tell of, as its answer takes time."""
        self._listing, self._present, self._buried = True, set(), set()
        self._asked_at = self._position

    def begin(self, version: int) -> bool:
        """The list that was asked for begins to be told, and is of this version.

        :return: whether the cluster's past is another one, so that no version known before counts.
        """
        another = version < self._asked_at
        if another:
            self._known = dict.fromkeys(self._known, -1)
            self._buried = set()
            self._position = self._watched = version
        self._position = max(self._position, version)
        return another

    def listed(self, uid: str, version: int) -> bool:
        """Whether the list's word on this object is news."""
        self._present.add(uid)
        if uid in self._buried or version <= self._known.get(uid, -1):
            return False
        self._known[uid] = version
        return True

    @property
    def doubtful(self) -> bool:
        """Whether the last list did not tell of something that a watch may yet tell the end of."""
        return bool(self._absent)

    def end(self, version: int) -> list[str]:
        """The list is told: the uids of what was deleted without a word.

        A watch that is behind the list may still tell the last state of what is not in it; until it has
        caught up, two lists have to agree.
        """
        absent = {uid for uid, of in self._known.items() if of <= version and uid not in self._present}
        gone = absent if self._watched >= version else absent & self._absent
        for uid in gone:
            del self._known[uid]
        self._absent = absent - gone
        self._listing, self._present, self._buried = False, set(), set()
        return sorted(gone)

    def broken(self) -> None:
        """The list broke off: nothing follows from what it did not tell of."""
        self._listing, self._present, self._buried = False, set(), set()


class Reader(Protocol):
    """Who is told of the objects. Calls come one at a time, under the lock of the one who follows."""

    def changed(self, document: Document) -> None:
        """An object is new, or other than it was."""

    def removed(self, uid: str, last: Document | None) -> None:
        """An object is gone; its last state, where the cluster told it."""

    def listed(self, number: int) -> None:
        """List ``number`` is told: all that was there when it was asked for has been said."""


class Following:
    """Follows one collection of objects until it is closed. ``lock`` is held while the reader is told."""

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        selector: dict[str, str],
        reader: Reader,
        lock: threading.RLock,
        relist_seconds: float,
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._selector = selector
        self._reader = reader
        self._lock = threading.Condition(lock)
        self._relist = relist_seconds
        self._order = Order()
        self._closed = False
        self._wanted = False  # a list, before its time
        self._version = ""  # where the watch goes on; '' until a list says
        self.begun = 0
        """The number of the last list that was asked for."""
        self.done = 0
        """The number of the last list that was told to its end; 0 before the first."""
        self.heard = 0.0
        """Until when all news is known, by this process's monotonic clock."""
        self._threads = [
            threading.Thread(target=target, name=f"{what} {path}", daemon=True)
            for what, target in (("list", self._lists), ("watch", self._watches))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Follow no more; call it with the lock held."""
        self._closed = True
        self._lock.notify_all()

    def want(self) -> None:
        """Have a list soon; call it with the lock held."""
        self._wanted = True
        self._lock.notify_all()

    # -- lists

    def _lists(self) -> None:
        pause = 0.0
        while self._sleep(pause):
            try:
                self._list()
                pause = self._until_next()
            except ApiRefusal as error:
                # A list that has become too old between two pages is simply asked for again.
                pause = _longer(pause, error.retry_after)
                log.warning("%s cannot be listed: %s", self._path, error)
            except Unreachable as error:
                pause = _longer(pause)
                if not self._closed:
                    log.warning("%s: %s; asked again in %.1f s", self._path, error, pause)
            except Exception:  # whatever an answer holds, the next list may be good
                pause = _longer(pause)
                log.exception("%s could not be listed", self._path)

    def _until_next(self) -> float:
        """Wait for the time of the next list, or for somebody who wants it earlier."""
        with self._lock:
            self._lock.wait_for(lambda: self._wanted or self._closed, self._relist)
        return _SOONEST

    def _list(self) -> None:
        with self._lock:
            self._wanted = False
            self.begun += 1
            self._order.asked()
        asked = time.monotonic()
        version = -1
        try:
            for page in self._cluster.pages(self._path, **self._selector):
                if version < 0:
                    version = int(page["metadata"]["resourceVersion"])
                    with self._lock:
                        if self._order.begin(version):
                            log.warning("%s: the cluster was set back; all of it is read anew", self._path)
                            self._version = ""
                for document in page["items"]:
                    with self._lock:
                        self._tell_listed(document)
        except BaseException:
            with self._lock:
                self._order.broken()
            raise
        with self._lock:
            for uid in self._order.end(version):
                self._reader.removed(uid, None)
            self.done = self.begun
            self.heard = max(self.heard, asked)
            self._version = self._version or str(version)
            self._reader.listed(self.done)
            if self._order.doubtful:
                self.want()
            self._lock.notify_all()

    def _tell_listed(self, document: Document) -> None:
        try:
            meta = document["metadata"]
            if self._order.listed(meta["uid"], int(meta["resourceVersion"])):
                self._reader.changed(document)
        except Exception:  # one document that we cannot read must not end the news of all others
            log.exception("%s: a document cannot be read", self._path)

    # -- watches

    def _watches(self) -> None:
        pause = 0.0
        failures = 0
        while self._sleep(pause):
            with self._lock:
                if failures > 1:  # where no watch comes about, lists have to do
                    self._version = ""
                    self.want()
                self._lock.wait_for(lambda: self._version or self._closed)
                version = self._version
            if self._closed:
                return
            try:
                pause, failures = self._watch(version), 0
                continue
            except ApiRefusal as error:
                pause = _longer(pause, error.retry_after)
                if error.status == _GONE:
                    log.info("%s: %s; listed anew", self._path, error)
                    with self._lock:
                        self._version = ""
                        self.want()
                else:
                    log.warning("%s cannot be watched: %s", self._path, error)
            except Unreachable as error:
                pause = _longer(pause)
                if not self._closed:
                    log.warning("%s: %s; asked again in %.1f s", self._path, error, pause)
            except Exception:
                pause = _longer(pause)
                log.exception("%s could not be watched", self._path)
            failures += 1

    def _watch(self, version: str) -> float:
        """Follow the news for a while; how long to wait before the next time."""
        began = time.monotonic()
        for kind, document in self._cluster.watch(self._path, version, _TURN, **self._selector):
            with self._lock:
                if self._closed or self._version == "":
                    return 0.0
                self._tell_event(kind, document)
                self.heard = time.monotonic()
        if time.monotonic() - began < _TURN / 2:  # no sign of somebody who would have told of anything
            return _SOONEST
        with self._lock:
            self.heard = time.monotonic()
        return 0.0

    def _tell_event(self, kind: str, document: Document) -> None:
        try:
            meta = document["metadata"]
            version = int(meta["resourceVersion"])
            self._version = str(version)
            if kind == "BOOKMARK":
                self._order.reached(version)
            elif self._order.event(kind, meta["uid"], version):
                if kind == "DELETED":
                    self._reader.removed(meta["uid"], document)
                else:
                    self._reader.changed(document)
        except Exception:
            log.exception("%s: an event cannot be read", self._path)

    def _sleep(self, seconds: float) -> bool:
        """Whether to go on after these seconds."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed, seconds)
            return not self._closed


def _longer(pause: float, at_least: float | None = None) -> float:
    """Twice as long, with jitter, a few seconds at most unless the API server asks for more."""
    return max(at_least or 0.0, min(_LONGEST, max(0.2, 2 * pause)) * random.uniform(0.75, 1.25))
