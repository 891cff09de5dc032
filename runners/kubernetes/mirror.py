"""What the cluster knows of our attempts, kept up to date by list and watch.

A watch is a hint, the list is the truth: each resource is listed anew, page by page, when the API server
cannot tell what happened since (410), when its news broke off for long, and every ``relist_seconds``. Memory
grows with the attempts at this site, by a few hundred bytes each; work with what happens to them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from runners.base import Observation, Unreachable
from runners.kubernetes import manifest, seen
from runners.kubernetes.cluster import Cluster, Document, Refused
from runners.kubernetes.diagnose import diagnose

log = logging.getLogger(__name__)

Key = tuple[str, int]

_STALE = 90.0  # s without a word of the API server, after which nothing is said of its attempts
_GONE = 410


class Mirror:
    """The observations of all attempts of one server instance in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, instance: str, relist_seconds: float = 60) -> None:
        self._cluster = cluster
        self._relist = relist_seconds
        self._jobs: dict[Key, seen.Job] = {}
        self._pods: dict[Key, dict[str, seen.Pod]] = {}
        self._refused: dict[Key, str] = {}
        self._observed: dict[Key, Observation] = {}
        self._news = threading.Condition()
        self._count = 0
        self._told = 0
        self._heard: dict[str, float] = {}
        self._closed = threading.Event()
        ours = f"{manifest.INSTANCE}={instance},app.kubernetes.io/managed-by={manifest.MANAGED_BY}"
        jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        pods = f"/api/v1/namespaces/{namespace}/pods"
        events = f"/api/v1/namespaces/{namespace}/events"
        refusals = "reason=FailedCreate,involvedObject.kind=Job"
        followed: tuple[tuple[str, dict[str, str], Callable[[str, Document], None]], ...] = (
            (jobs, {"labelSelector": ours}, self._job),
            (pods, {"labelSelector": ours}, self._pod),
            (events, {"fieldSelector": refusals}, self._event),
        )
        self._threads = [
            threading.Thread(target=self._follow, args=one, name=f"follow {one[0]}", daemon=True)
            for one in followed
        ]
        self._paths = [path for path, _, _ in followed]

    def start(self) -> None:
        """Begin to follow."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Follow no more."""
        self._closed.set()
        self._cluster.close()

    def observations(self, patience: float = 30) -> list[Observation]:
        """What is known now; waits for the first lists, ``patience`` seconds at most.

        :raises Unreachable: nothing was heard of the API server for too long.
        """
        with self._news:
            self._news.wait_for(lambda: len(self._heard) == len(self._paths), patience)
            oldest = min((self._heard.get(path, 0.0) for path in self._paths), default=0.0)
            if len(self._heard) < len(self._paths) or time.monotonic() - oldest > self._relist + _STALE:
                raise Unreachable("the cluster's API server has not answered for a while")
            return list(self._observed.values())

    def wait(self, timeout: float) -> None:
        """Return when there is news that nobody was told of, at the latest after ``timeout`` s."""
        with self._news:
            self._news.wait_for(lambda: self._count != self._told, timeout)
            self._told = self._count

    def job(self, key: Key) -> seen.Job | None:
        """The Job of an attempt, as last seen."""
        with self._news:
            return self._jobs.get(key)

    def drop(self, key: Key) -> None:
        """Forget an attempt whose Job was deleted."""
        with self._news:
            self._jobs.pop(key, None)
            self._refused.pop(key, None)
            if not self._pods.get(key):
                self._pods.pop(key, None)
                self._observed.pop(key, None)

    # -- following one resource

    def _follow(self, path: str, query: dict[str, str], note: Callable[[str, Document], None]) -> None:
        pause = 0.0
        while not self._closed.wait(pause):
            try:
                version = self._list(path, query, note)
                pause = 0.0
                self._watch(path, query, note, version)
            except Refused as error:
                pause = 0.0 if error.status == _GONE else _longer(pause, error.retry_after)
                log.log(logging.INFO if error.status == _GONE else logging.WARNING, "%s: %s", path, error)
            except Unreachable as error:
                pause = _longer(pause)
                if not self._closed.is_set():
                    log.warning("%s: %s; asked again in %.1f s", path, error, pause)
            except Exception:  # one document that we cannot read must not end the news of all others
                pause = _longer(pause)
                log.exception("%s could not be followed", path)

    def _list(self, path: str, query: dict[str, str], note: Callable[[str, Document], None]) -> str:
        present = set()
        version = ""
        for page in self._cluster.pages(path, **query):
            version = page["metadata"]["resourceVersion"]
            for document in page["items"]:
                present.add(document["metadata"]["uid"])
                note("MODIFIED", document)
        with self._news:
            self._missing(note, present)
            self._heard[path] = time.monotonic()
            self._tell()
        return version

    def _watch(
        self, path: str, query: dict[str, str], note: Callable[[str, Document], None], version: str
    ) -> None:
        until = time.monotonic() + self._relist
        while (left := until - time.monotonic()) > 0 and not self._closed.is_set():
            for kind, document in self._cluster.watch(path, version, max(1, int(left)), **query):
                version = document["metadata"]["resourceVersion"]
                self._heard[path] = time.monotonic()
                if kind != "BOOKMARK":
                    note(kind, document)

    # -- what was said of one document

    def _job(self, kind: str, document: Document) -> None:
        key = seen.key(document)
        if key is None:
            return
        with self._news:
            if kind == "DELETED":
                self._job_gone(key, document["metadata"]["uid"])
            else:
                self._jobs[key] = seen.job(document)
            self._diagnose(key)

    def _job_gone(self, key: Key, uid: str) -> None:
        # By us, after its end was recorded, or by somebody: then its pods are still to be seen to their end.
        last = self._jobs.get(key)
        if last is not None and last.uid == uid:
            self._jobs[key] = replace(last, over="Failed", why="the Job was deleted")

    def _pod(self, kind: str, document: Document) -> None:
        key = seen.key(document)
        if key is None:
            return
        uid = document["metadata"]["uid"]
        with self._news:
            pods = self._pods.setdefault(key, {})
            if kind == "DELETED" and not seen.pod(document).over:
                pods.pop(uid, None)  # its end was never seen
            elif kind == "DELETED" and key not in self._jobs:
                pods.pop(uid, None)
            else:
                pods[uid] = seen.pod(document)
            if not pods:
                del self._pods[key]
            self._diagnose(key)

    def _event(self, kind: str, document: Document) -> None:
        about = document.get("involvedObject") or {}
        key = manifest.attempt_of(about.get("name") or "")
        with self._news:
            job = self._jobs.get(key) if key else None
            if key is None or job is None or job.uid != about.get("uid"):
                return
            if kind == "DELETED":
                self._refused.pop(key, None)
            else:
                self._refused[key] = str(document.get("message") or "")
            self._diagnose(key)

    def _missing(self, note: Callable[[str, Document], None], present: set[str]) -> None:
        if note == self._job:
            for key, job in list(self._jobs.items()):
                if job.uid not in present and job.why != "the Job was deleted":
                    self._job_gone(key, job.uid)
                    self._diagnose(key)
        elif note == self._pod:
            for key, pods in list(self._pods.items()):
                for uid in [uid for uid, pod in pods.items() if uid not in present and not pod.over]:
                    del pods[uid]
                if not pods or key not in self._jobs:
                    self._pods.pop(key, None)
                self._diagnose(key)

    def _diagnose(self, key: Key) -> None:
        job = self._jobs.get(key)
        if job is None:
            self._observed.pop(key, None)
        else:
            pods = list(self._pods.get(key, {}).values())
            self._observed[key] = diagnose(job, pods, self._refused.get(key, ""))
        self._tell()

    def _tell(self) -> None:
        self._count += 1
        self._news.notify_all()


def _longer(pause: float, at_least: float | None = None) -> float:
    """Twice as long, with jitter, at most half a minute."""
    return max(at_least or 0.0, min(30.0, max(0.2, 2 * pause)) * random.uniform(0.75, 1.25))
