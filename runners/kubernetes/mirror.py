"""What the cluster knows of our attempts: Jobs, their pods, and why some get none, brought together.

Each kind of object is followed by itself (`following`), so that news of one may come before news of another
that happened earlier. What is said of an attempt waits where that could mislead. Memory grows with the
attempts at this site, by a few hundred bytes each; work with what happens to them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from runners.base import Attempt, Cause, Observation, State, Unreachable
from runners.kubernetes import manifest, seen
from runners.kubernetes.cluster import Cluster, Document
from runners.kubernetes.diagnose import diagnose
from runners.kubernetes.following import Following

_SILENT = 12.0  # s; less than the watcher waits before it ends what seems to run too long
_PATIENCE = 120.0  # s for which an attempt is told of whose Job is gone
_OVERDUE = 30.0  # s beyond its grace after which a pod that is to end has a node that does not answer


class Mirror:
    """The observations of all attempts of one server instance in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, instance: str, relist_seconds: float = 60) -> None:
        lock = threading.RLock()
        self._news = threading.Condition(lock)
        self._told = 0
        self._attempts = Attempts(lambda: self._pods.begun, self._more_pods, self._news.notify_all)
        ours = {"labelSelector": manifest.selector(instance)}
        refusals = {"fieldSelector": "reason=FailedCreate,involvedObject.kind=Job"}
        core, batch = f"/api/v1/namespaces/{namespace}", f"/apis/batch/v1/namespaces/{namespace}"
        of = self._attempts
        self._jobs = Following(cluster, f"{batch}/jobs", ours, of.jobs, lock, relist_seconds)
        self._pods = Following(cluster, f"{core}/pods", ours, of.pods, lock, relist_seconds)
        events = Following(cluster, f"{core}/events", refusals, of.refusals, lock, relist_seconds)
        self._followed = (self._jobs, self._pods, events)

    def start(self) -> None:
        """Begin to follow."""
        for followed in self._followed:
            followed.start()

    def close(self) -> None:
        """Follow no more. Who made the cluster closes it."""
        with self._news:
            for followed in self._followed:
                followed.close()

    def observations(self, patience: float = 30) -> list[Observation]:
        """What is known now; waits for the first lists, ``patience`` seconds at most.

        :raises Unreachable: nothing was heard of Jobs or of pods for too long.
        """
        with self._news:
            self._check(patience)
            return list(self._attempts.observed.values())

    def wait(self, timeout: float) -> None:
        """Return when there is news that nobody was told of, at the latest after ``timeout`` s."""
        with self._news:
            self._news.wait_for(lambda: self._attempts.changes != self._told, timeout)
            self._told = self._attempts.changes

    def job(self, key: Attempt, patience: float = 30) -> tuple[seen.Job, Observation] | None:
        """The Job of an attempt, as last seen, and what was observed of the attempt.

        :raises Unreachable: as `observations`.
        """
        with self._news:
            self._check(patience)
            job = self._attempts.job(key)
            found = self._attempts.observed.get(key)
            return (job, found) if job and found else None

    def orphaned(self, key: Attempt) -> bool:
        """Whether the attempt has pods that go with no Job."""
        with self._news:
            return self._attempts.orphaned(key)

    def drop(self, key: Attempt, uid: str) -> None:
        """Forget an attempt whose Job was deleted."""
        with self._news:
            self._attempts.drop(key, uid)

    def _check(self, patience: float) -> None:
        self._news.wait_for(lambda: self._jobs.done and self._pods.done, patience)
        if not (self._jobs.done and self._pods.done):
            raise Unreachable("the cluster's API server does not answer")
        silence = time.monotonic() - min(self._jobs.heard, self._pods.heard)
        if silence > _SILENT:
            raise Unreachable(f"the cluster's API server has not been heard of for {silence:.0f} s")

    def _more_pods(self) -> None:
        self._pods.want()


class Attempts:
    """Jobs, pods and refusals → one observation for each attempt. No thread, no I/O.

    ``begun`` says the number of the last list of pods that was asked for, ``want`` has another, and ``tell``
    is called when there is something to see.
    """

    def __init__(
        self,
        begun: Callable[[], int],
        want: Callable[[], None],
        tell: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._begun = begun
        self._want = want
        self.tell = tell
        self.monotonic = monotonic
        self.observed: dict[Attempt, Observation] = {}
        self.changes = 0
        """Counts what became other in ``observed``."""
        self.jobs = _Jobs(self)
        self.pods = _Pods(self)
        self.refusals = _Refusals(self)
        self._doubts: dict[Attempt, int] = {}  # ended Jobs without pods → the last list of pods asked before
        self._ghosts: dict[Attempt, float] = {}  # Jobs that are gone → since when
        self._alone: set[Attempt] = set()  # what had pods and no Job when Jobs were last listed
        self._ended: dict[Attempt, str] = {}  # what was seen to its end → uid of its Job

    def job(self, key: Attempt) -> seen.Job | None:
        """The Job of an attempt; also one that is gone, until its end can have been noted."""
        return self.jobs.by_key.get(key)

    def drop(self, key: Attempt, uid: str) -> None:
        """Our own deletion of this Job: nothing that is still said of it is news."""
        job = self.jobs.by_key.get(key)
        if job is not None and job.uid == uid:
            self.jobs.leave(key)
            if self.jobs.knows(uid):
                self.jobs.dropped.add(uid)
            self.pods.leave(key)
        self.diagnose(key)

    def ghost(self, key: Attempt) -> None:
        """The Job of this attempt is gone, and not by us: its pods are still to be seen to their end."""
        self.jobs.by_key[key] = seen.deleted(self.jobs.by_key[key])
        self._ghosts.setdefault(key, self.monotonic())
        self.diagnose(key)

    def adopt(self) -> None:
        """A list of Jobs is told: follow the pods to their end whose Job is gone, and nobody saw it go.

        A Job is older than its pods, so that the first list that is asked for after a pod was known has it.
        """
        alone = self.pods.without(self.jobs.by_key)
        for key in alone & self._alone:
            self.jobs.by_key[key] = seen.unknown(key, self.pods.of(key)[0])
            self.ghost(key)
        self._alone = alone.difference(self.jobs.by_key)

    def orphaned(self, key: Attempt) -> bool:
        """Whether nothing in the cluster would ever take away a pod of this attempt."""
        return any(not pod.owned for pod in self.pods.of(key))

    def lay(self, patience: float) -> None:
        """Let go of Jobs that were gone for so long that whoever wanted to note it has."""
        for key, since in list(self._ghosts.items()):
            job = self.jobs.by_key.get(key)
            if job is None or not job.gone:
                del self._ghosts[key]
            elif self.monotonic() - since > patience and not self.pods.living(key):
                del self._ghosts[key]
                self.jobs.leave(key)
                self.pods.leave(key)
                self.diagnose(key)

    def settle(self, done: int) -> None:
        """List ``done`` of the pods is told: say what was in doubt before it was asked for."""
        for key in [key for key, asked in self._doubts.items() if asked < done]:
            self.diagnose(key, done)

    def diagnose(self, key: Attempt, pods_listed: int = 0) -> None:
        """Say anew what is to be said of an attempt."""
        job = self.jobs.by_key.get(key)
        if job is None or self.pods.overdue(key):
            # What no node answers for is not known to the site, though the cluster tells of it for ever.
            self._doubts.pop(key, None)
            self._ended.pop(key, None)
            if self.observed.pop(key, None) is not None:
                self._count()
            return
        if self._ended.get(key) == job.uid:
            return  # how it ended stays, also when somebody asks afterwards to have it stopped
        pods = self.pods.of(key)
        found = diagnose(job, pods, self.refusals.why(job.uid))
        if pods or not _needs_pod(found):
            self._doubts.pop(key, None)
            if found.state is State.ENDED:
                self._ended[key] = job.uid
        elif self._doubts.setdefault(key, self._begun()) >= pods_listed:
            # The Job's end may be known before its pod is: pods are followed apart.
            self._want()
            found = self.observed.get(key) or Observation(*key, State.FINISHING, "looking for its pod")
        else:
            self._doubts[key] = -1  # settled, for as long as nothing else is said
        if self.observed.get(key) != found:
            self.observed.pop(key, None)  # what changed last is last
            self.observed[key] = found
            self._count()

    def _count(self) -> None:
        self.changes += 1
        self.tell()


def _needs_pod(found: Observation) -> bool:
    """Whether its pod, were there one, would tell more of how an attempt ended."""
    outcome = found.outcome
    return outcome is not None and outcome.cause in (Cause.LOST, Cause.SUCCEEDED)


class _Jobs:
    """The Jobs, by attempt."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._keys: dict[str, Attempt] = {}  # by uid, of all that the cluster has
        self.by_key: dict[Attempt, seen.Job] = {}
        self.dropped: set[str] = set()  # uids that we deleted and that the cluster still tells of

    def knows(self, uid: str) -> bool:
        """Whether the cluster still has it, as far as it said."""
        return uid in self._keys

    def leave(self, key: Attempt) -> None:
        """Keep nothing of this attempt's Job."""
        self.by_key.pop(key, None)

    def changed(self, document: Document) -> None:
        """A Job is new, or other than it was."""
        job = seen.job(document)
        key = job.job_id, job.attempt
        self._keys[job.uid] = key
        # A watch that is behind a list tells of a Job that is gone after the one that took its name.
        newer = self.by_key.get(key)
        late = newer is not None and newer.uid != job.uid and int(newer.version) > int(job.version)
        if job.uid not in self.dropped and not late:
            self.by_key[key] = job
            self._attempts.diagnose(key)

    def removed(self, uid: str, last: Document | None) -> None:
        """A Job is gone: by us, or by somebody."""
        key = self._keys.pop(uid, None)
        if uid in self.dropped:
            self.dropped.discard(uid)
        elif key is not None and (job := self.by_key.get(key)) is not None and job.uid == uid:
            self._attempts.ghost(key)

    def listed(self, number: int) -> None:
        """All Jobs are told."""
        self._attempts.adopt()
        self._attempts.lay(_PATIENCE)
        self._attempts.refusals.only({job.uid for job in self.by_key.values()})
        self._attempts.tell()


class _Pods:
    """The pods, by attempt. One that has ended is kept after its deletion for as long as its Job is known."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._keys: dict[str, Attempt] = {}  # by uid, of all that the cluster has
        self._by_key: dict[Attempt, dict[str, seen.Pod]] = {}
        self._dropped: set[str] = set()  # uids of what the cluster still has of Jobs that we deleted
        self._ends: dict[str, float] = {}  # by uid, of what is being deleted: when it must have ended

    def without(self, jobs: Iterable[Attempt]) -> set[Attempt]:
        """The attempts that have pods, less these."""
        return set(self._by_key).difference(jobs)

    def of(self, key: Attempt) -> list[seen.Pod]:
        """The pods of an attempt."""
        return list(self._by_key.get(key, {}).values())

    def living(self, key: Attempt) -> bool:
        """Whether a pod of this attempt has not ended."""
        return any(not pod.over for pod in self.of(key))

    def overdue(self, key: Attempt) -> bool:
        """Whether a pod of this attempt is to have ended long ago, and nobody says that it has."""
        now = self._attempts.monotonic()
        pods = self._by_key.get(key, {}).items()
        return any(not pod.over and now > self._ends.get(uid, now) for uid, pod in pods)

    def leave(self, key: Attempt) -> None:
        """Keep nothing of this attempt's pods: another Job of its name is not theirs."""
        self._dropped.update(self._by_key.pop(key, {}).keys() & self._keys.keys())

    def changed(self, document: Document) -> None:
        """A pod is new, or other than it was."""
        key = seen.key(document)
        if key is not None and document["metadata"]["uid"] not in self._dropped:
            pod = seen.pod(document)
            self._keys[pod.uid] = key
            self._by_key.setdefault(key, {})[pod.uid] = pod
            if pod.leaving:
                # From now on, not from when the API server says: its clock is another.
                # And not the time that it would have for its results, were it let be.
                grace = min(document["metadata"].get("deletionGracePeriodSeconds") or 0, manifest.ENDING)
                self._ends.setdefault(pod.uid, self._attempts.monotonic() + grace + _OVERDUE)
            self._attempts.diagnose(key)

    def removed(self, uid: str, last: Document | None) -> None:
        """A pod is gone; its end may come with this very word."""
        key = self._keys.pop(uid, None)
        self._ends.pop(uid, None)
        if key is None or uid in self._dropped:
            self._dropped.discard(uid)
            return
        pods = self._by_key.setdefault(key, {})
        if last is not None:
            pods[uid] = seen.pod(last)
        if uid in pods and not (pods[uid].over and self._attempts.job(key)):
            del pods[uid]
        if not pods:
            del self._by_key[key]
        self._attempts.diagnose(key)

    def listed(self, number: int) -> None:
        """All pods are told."""
        now = self._attempts.monotonic()
        for key in {self._keys[uid] for uid, end in self._ends.items() if now > end}:
            self._attempts.diagnose(key)
        self._attempts.settle(number)
        self._attempts.tell()


class _Refusals:
    """Why the cluster makes no pods, by the uid of the Job. An event may come before the Job does."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._uids: dict[str, str] = {}  # event → Job
        self._why: dict[str, str] = {}
        self._unknown: set[str] = set()  # of Jobs that were not known when Jobs were last listed

    def why(self, uid: str) -> str:
        """Why this Job gets no pod, '' when nothing is known."""
        return self._why.get(uid, "")

    def only(self, jobs: set[str]) -> None:
        """Keep nothing of Jobs other than these, but what is as new as they may be."""
        unknown = self._why.keys() - jobs
        for uid in unknown & self._unknown:
            del self._why[uid]
        self._unknown = unknown

    def changed(self, document: Document) -> None:
        """An event is new, or was counted once more."""
        about = document.get("involvedObject") or {}
        key = manifest.attempt_of(about.get("name") or "")
        if key is not None:
            uid = str(about.get("uid"))
            self._uids[document["metadata"]["uid"]] = uid
            self._why[uid] = str(document.get("message") or "")
            self._attempts.diagnose(key)

    def removed(self, uid: str, last: Document | None) -> None:
        """An event has become too old."""
        job = self._uids.pop(uid, "")
        self._why.pop(job, None)

    def listed(self, number: int) -> None:
        """Nothing follows from what has no event."""
