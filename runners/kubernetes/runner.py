"""Starts, observes and stops attempts as Kubernetes Jobs.

Cost: one request to the API server for a start, one for a stop, one to forget; what happens to attempts comes
by watches, three for each site. What a job costs that gives an image and no command, `registry` says.

An attempt's code starts at most once although a Job may get more than one pod, and although a worker that was
paused for long may create the Job of an attempt again: the agent asks the server at its door before it
lets anything start, and the first pod to ask is the only one that ever may.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable

from runners import ending
from runners.base import Busy, NotYet, Observation, State, Unreachable, Unrunnable, no_doubt
from runners.kubernetes import manifest, seen
from runners.kubernetes.cluster import ApiRefusal, Cluster, Document
from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.mirror import Mirror
from runners.kubernetes.reference import Image
from runners.kubernetes.registry import Images
from uws_server.domain.runspec import RunSpec

_FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY = 403, 404, 409, 429
_INVALID = (400, 413, 422)
_LARGEST = 1024**2  # bytes of JSON; etcd takes 1.5 MiB, and the cluster adds to it
# A webhook's or a policy's word on one Job; what the server itself says of the site's rights, room and being.
_DENIED = re.compile('admission webhook "[^"]*" denied the request|.* denied request: ', re.DOTALL)
_OF_SITE = re.compile(
    '[^ ]+( "[^"]*")? is forbidden: (exceeded quota: |User "[^"]*" cannot |unable to create new content in )'
)
_TRIES = 3
_RELABELLED = (
    "The cluster changes the labels of Jobs, by which they are followed: "
    "an admission webhook does so, which its operators have to mend."
)


class KubernetesRunner:
    """One namespace of one cluster, for one server instance."""

    # A cluster misses a node 55 s after its last word; until then it tells of its pods as if they ran.
    overrun_seconds = 75.0

    def __init__(
        self,
        cluster: Cluster,
        settings: PodSettings,
        relist_seconds: float = 60,
        images: Images | None = None,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._images = images or Images()
        self._relist = relist_seconds
        self._jobs = f"/apis/batch/v1/namespaces/{settings.namespace}/jobs"
        self._mirror: Mirror | None = None
        self._lock = threading.Lock()

    def start(
        self, spec: RunSpec, agent_url: str, token: str, confirm: Callable[[], None] = no_doubt
    ) -> None:
        """Create the attempt's Job, unless it is there.

        :raises Busy: the API server takes none just now, or does not say; a quota is full, a right missing.
        :raises NotYet: the image's registry, which must be asked, does not say, or wants a login that cannot
            be read from the pull secret; or a former Job goes.
        :raises Unrunnable: it never will take this one, or a webhook or policy of the cluster denies it.
        """
        try:
            document = manifest.job(spec, self._settings, agent_url, token, self._image(spec))
        except ValueError as error:
            raise Unrunnable(str(error)) from error
        if len(json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")) > _LARGEST:
            raise Unrunnable("The job's command and environment are too long.")
        confirm()
        try:
            self._create(spec, document)
        except Unreachable as error:
            # Should it have been created all the same, the watcher sees it, or the next try finds it.
            raise Busy(str(error)) from error

    def _image(self, spec: RunSpec) -> Image | None:
        """The user's image in full, and what it runs where the job does not say; None for ours."""
        if spec.kind != "container" or not spec.image:
            return None
        return Image(self._images.in_full(spec.image)) if spec.command else self._images.ask(spec.image)

    def _create(self, spec: RunSpec, document: Document) -> None:
        try:
            made = self._cluster.call("POST", self._jobs, document)
        except ApiRefusal as error:
            if error.status == _CONFLICT and error.reason == "AlreadyExists":
                self._adopt(spec)
            else:
                raise _of_refusal(error) from error
        else:
            if not self._followed(made, spec):
                # Whoever starts may have no right to change a Job; a job that has failed so is stopped next.
                raise Unrunnable(_RELABELLED)

    def _followed(self, found: Document, spec: RunSpec) -> bool:
        """Whether a Job has the labels by which this attempt is followed."""
        labels = found["metadata"].get("labels") or {}
        ours = labels.get(manifest.INSTANCE) == self._settings.instance
        return (
            ours
            and labels.get(manifest.MANAGED_BY_LABEL) == manifest.MANAGED_BY
            and seen.key(found) == (spec.job_id, spec.attempt)
        )

    def _adopt(self, spec: RunSpec) -> None:
        """See that the Job of this name is this attempt's.

        :raises NotYet: it is on its way out, or gone by now.
        :raises Busy: the API server does not show it.
        :raises Unrunnable: it is somebody else's.
        """
        try:
            found = self._cluster.call("GET", self._path(spec.job_id, spec.attempt))
        except ApiRefusal as error:
            if error.status == _NOT_FOUND:  # gone since it was in the way
                raise NotYet("the job's former Job in the cluster has just been deleted") from error
            raise Busy(f"the cluster does not show the job's former Job: {error}") from error
        if "deletionTimestamp" in found["metadata"]:
            raise NotYet("the job's former Job in the cluster is being deleted")
        if not self._followed(found, spec):
            raise Unrunnable(f"the cluster has a Job {found['metadata']['name']} that is not this server's")

    def observe(self) -> Iterable[Observation]:
        """Every attempt that the cluster still knows.

        :raises Unreachable: the API server has not answered for a while.
        """
        return self._following().observations()

    def wait(self, timeout: float) -> None:
        """Return at news of the cluster."""
        self._following().wait(timeout)

    def stop(self, job_id: str, attempt: int) -> None:
        """Have the Job's pods ended. A Job that has ended so never makes a pod again."""
        marked = {
            "metadata": {
                "annotations": {manifest.STOP: "true"},
                # Should somebody have changed them, the watcher does not see it otherwise.
                "labels": manifest.labels(job_id, attempt, self._settings),
            },
            # The Job controller ends the pods with their grace, and the Job for good; 0 is taken for none.
            "spec": {"activeDeadlineSeconds": 1},
        }
        try:
            self._cluster.call(
                "PATCH",
                self._path(job_id, attempt),
                marked,
                content_type="application/merge-patch+json",
            )
        except ApiRefusal as error:
            if error.status != _NOT_FOUND:
                raise
            self._lay_stone(job_id, attempt)

    def _lay_stone(self, job_id: str, attempt: int) -> None:
        """A Job that never makes a pod, in the place of one that was never started."""
        try:
            self._cluster.call("POST", self._jobs, manifest.stone(job_id, attempt, self._settings))
        except ApiRefusal as error:
            if error.status != _CONFLICT:
                raise
            self.stop(job_id, attempt)  # somebody has started it in between

    def forget(self, job_id: str, attempt: int) -> None:
        """Delete the Job that was seen to its end, and no other of its name.

        Pods that no Job would take along are given to one first: what is left of the attempt is told of until
        that is done, and forgotten when it is asked for again.

        :raises ValueError: the attempt has not ended.
        :raises Unreachable: the API server has not answered for a while.
        """
        mirror = self._following()
        key = job_id, attempt
        found = mirror.job(key)
        if found is None:
            return
        job, seen_so = found
        if seen_so.state not in (State.ENDED, State.LOST):
            raise ValueError(f"attempt {attempt} of job {job_id} has not ended")
        if mirror.orphaned(key):
            if job.gone:
                self._lay_stone(job_id, attempt)
            return
        if self._delete(self._path(*key), job.uid, job.version):
            mirror.drop(key, job.uid)

    def _delete(self, path: str, uid: str, version: str) -> bool:
        """Delete a Job as it was last seen; where it has changed since, as it is seen now.

        :return: whether there is no such Job any more; if not, it is to be tried again.
        """
        for _ in range(_TRIES):
            options: Document = {
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "propagationPolicy": "Background",
                "preconditions": {"uid": uid, "resourceVersion": version},
            }
            try:
                self._cluster.call("DELETE", path, options)
            except ApiRefusal as error:
                if error.status == _NOT_FOUND:
                    return True
                if error.status != _CONFLICT:
                    raise
            else:
                return True
            try:
                meta = self._cluster.call("GET", path)["metadata"]
            except ApiRefusal as error:
                if error.status == _NOT_FOUND:
                    return True
                raise
            if meta["uid"] != uid:
                return True
            version = meta["resourceVersion"]
        return False

    def close(self) -> None:
        """Let go of all connections."""
        if self._mirror is not None:
            self._mirror.close()
        self._cluster.close()

    def _following(self) -> Mirror:
        with self._lock:  # a worker that only starts and stops follows nothing
            if self._mirror is None:
                self._mirror = Mirror(
                    self._cluster, self._settings.namespace, self._settings.instance, self._relist
                )
                self._mirror.start()
            return self._mirror

    def _path(self, job_id: str, attempt: int) -> str:
        return f"{self._jobs}/{manifest.name(job_id, attempt)}"


def _of_refusal(error: ApiRefusal) -> Exception:
    """What the API server's no to a new Job says: of this job alone, or of the site."""
    words = ending.clean(str(error))
    if _DENIED.match(str(error)):
        if error.status == _TOO_MANY or error.status >= 500:  # whoever denies it so is to be asked again
            return NotYet(f"the cluster does not take the job just now: {words}")
        return Unrunnable(f"the cluster does not take the job: {words}")
    of_job = error.status == _FORBIDDEN and not _OF_SITE.match(str(error))
    if of_job or error.status in _INVALID:
        return Unrunnable(f"the cluster does not take the job: {words}")
    # 401 and 404 are of the site's account and namespace; 409, 429, 5xx pass.
    return Busy(f"the cluster takes no job just now: {words}")
