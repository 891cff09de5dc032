"""What `uws-server check` asks of a site's cluster, and of the registries that the site may ask.

Nothing is made: what a cluster would say of a job is asked for by a dry run, which meets its admission
webhooks, quotas and policies as a job does.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from runners.base import Busy, Unreachable
from runners.ending import clean
from runners.kubernetes import manifest
from runners.kubernetes.bounded_http import Away, Never
from runners.kubernetes.cluster import ApiRefusal, Cluster, Document
from runners.kubernetes.configured import images, open_cluster, pod_settings
from runners.kubernetes.logins import check
from runners.kubernetes.manifest import PodSettings
from uws_server.config_file import BadConfig
from uws_server.domain.runspec import AttemptLimits, Resources, RunSpec
from uws_server.findings import Finding, Grade
from uws_server.settings import Settings

_BAD, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404
_OLDEST = (1, 29)  # with sidecars as we use them
_CONNECT = 5.0  # s
_START, _STOP, _WATCH = "starts", "stops", "watches"

RIGHTS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("batch", "jobs", "create"): (_START, _STOP, _WATCH),
    ("batch", "jobs", "get"): (_START, _WATCH),
    ("batch", "jobs", "patch"): (_STOP, _WATCH),
    ("batch", "jobs", "delete"): (_WATCH,),
    ("batch", "jobs", "list"): (_WATCH,),
    ("batch", "jobs", "watch"): (_WATCH,),
    ("", "pods", "list"): (_WATCH,),
    ("", "pods", "watch"): (_WATCH,),
    ("", "events", "list"): (_WATCH,),
    ("", "events", "watch"): (_WATCH,),
}
"""API group, resource and verb of each request that the runner makes → which of the processes makes it."""


def examine(settings: Settings, name: str) -> Iterator[Finding]:
    """All of one site, each finding as soon as it is known."""
    try:
        cluster = open_cluster(settings, name)
    except BadConfig as error:
        yield _no_way_in(settings, name, error)
    else:
        try:
            yield from _Examination(settings, name, cluster).all()
        except Unreachable as error:
            said = (
                f"{error}. It is the one of sites.{name}.kubernetes.kubeconfig and .context: {cluster.server}"
            )
            yield Finding(f"cluster of {name}", said, Grade.BROKEN)
        finally:
            cluster.close()
    yield _agents_way(settings, name)


def _no_way_in(settings: Settings, name: str, error: BadConfig) -> Finding:
    said = settings.sites[name].kubernetes
    if "KUBERNETES_SERVICE_HOST" in os.environ and not (said.kubeconfig or said.context):
        words = "not asked, as this pod has no account there: run this in the pod of a watcher"
        return Finding(f"cluster of {name}", words, Grade.WEAK)
    return Finding(f"cluster of {name}", str(error), Grade.BROKEN)


class _Examination:
    """One site's cluster."""

    def __init__(self, settings: Settings, name: str, cluster: Cluster) -> None:
        self._settings = settings
        self._key = f"sites.{name}.kubernetes"
        self._said = settings.sites[name].kubernetes
        self._pods: PodSettings = pod_settings(settings, name)
        self._cluster = cluster
        self._subject = f"cluster of {name}"
        self._images = images(settings, name, cluster)

    def all(self) -> Iterator[Finding]:
        """What is to be said of it.

        :raises Unreachable: it does not answer.
        """
        try:
            yield self._version()
        except ApiRefusal as error:
            yield self._broken(f"{self._cluster.server} does not let us in: {clean(str(error))}")
            return
        namespace = self._namespace()
        yield namespace
        if namespace.grade is not Grade.BROKEN:
            yield from self._rights()
            yield from self._dry_runs()
            yield from self._named()
        yield from self._registries()

    # ---- the cluster, and what may be done there

    def _version(self) -> Finding:
        found = self._cluster.call("GET", "/version")
        version = str(found.get("gitVersion"))
        numbers = re.match(r"v(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
            return self._broken(
                f"Kubernetes {version} is too old: jobs need {_OLDEST[0]}.{_OLDEST[1]} or newer"
            )
        return self._good(f"The API server at {self._cluster.server} answers, of Kubernetes {version}.")

    def _namespace(self) -> Finding:
        name = self._said.namespace
        try:
            found = self._cluster.call("GET", f"/api/v1/namespaces/{name}")
        except ApiRefusal as error:
            if error.status == _UNAUTHORIZED:
                return self._broken(f"{self._cluster.server} does not let us in: {clean(str(error))}")
            if error.status != _NOT_FOUND:
                return self._unseen(f"the namespace {name}", error)
            return self._broken(
                f"there is no namespace {name}: make it, or name another in {self._key}.namespace"
            )
        if found.get("status", {}).get("phase") == "Terminating":
            return self._broken(f"the namespace {name} is being deleted")
        return self._good(f"The namespace {name} is there.")

    def _rights(self) -> Iterator[Finding]:
        missing: dict[tuple[str, ...], list[str]] = {}
        for (group, resource, verb), who in RIGHTS.items():
            try:
                allowed = self._may(verb, group, resource)
            except ApiRefusal as error:
                yield self._unseen("what this account may do", error)
                return
            if not allowed:
                missing.setdefault(who, []).append(f"{verb} {resource}")
        where = f"in the namespace {self._said.namespace}"
        for who, what in missing.items():
            yield self._broken(
                f"this account may not {_listed(what)} {where}, as whoever {_listed(list(who))} jobs must: "
                "give it a Role with these verbs"
            )
        if not missing:
            yield self._good(
                f"This account may do {where} all that starting, stopping and watching jobs needs."
            )

    def _may(self, verb: str, group: str, resource: str) -> bool:
        asked = {"namespace": self._said.namespace, "verb": verb, "group": group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._cluster.call("POST", path, review)["status"]["allowed"])

    # ---- what it would say of a job

    def _dry_runs(self) -> Iterator[Finding]:
        job = _job(self._pods)
        yield self._dry_run("job", f"/apis/batch/v1/namespaces/{self._said.namespace}/jobs", job)
        template = job["spec"]["template"]
        meta = {**template["metadata"], "name": job["metadata"]["name"], "namespace": self._said.namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
        yield self._dry_run("pod of a job", f"/api/v1/namespaces/{self._said.namespace}/pods", pod)

    def _dry_run(self, what: str, path: str, document: Document) -> Finding:
        try:
            if not self._may("create", *_group_and_resource(path)):
                return self._weak(f"whether it takes a {what} was not tried: no right to create one")
            made = self._cluster.call("POST", path, document, dryRun="All")
        except ApiRefusal as error:
            words = clean(str(error))
            if error.status == _BAD and "does not support dry run" in words:
                return self._weak(f"whether it takes a {what} was not tried: {words}")
            if "exceeded quota" in words:
                return self._weak(f"it has no room for a {what} just now: {words}")
            return self._broken(f"it takes no {what}: {words}")
        wanted = document["metadata"]["labels"]
        if not wanted.items() <= (made["metadata"].get("labels") or {}).items():
            return self._broken(
                f"an admission webhook changes the labels of a {what}, by which it is followed"
            )
        return self._good(f"It takes a {what}, by a dry run.")

    # ---- what the settings name

    def _named(self) -> Iterator[Finding]:
        said, namespace = self._said, self._said.namespace
        classes = (
            ("priority_class", said.priority_class, "/apis/scheduling.k8s.io/v1/priorityclasses"),
            ("runtime_class", said.runtime_class, "/apis/node.k8s.io/v1/runtimeclasses"),
        )
        for key, name, path in classes:
            if name:
                yield self._there(key, name, f"{path}/{name}")[0]
        if said.queue:
            yield self._queue()
        if said.pull_secret:
            path = f"/api/v1/namespaces/{namespace}/secrets/{said.pull_secret}"
            finding, document = self._there("pull_secret", said.pull_secret, path)
            try:
                if document is not None:
                    check(document)
            except ValueError as error:
                finding = self._broken(f"{self._key}.pull_secret is {said.pull_secret!r}: {error}")
            yield finding

    def _there(self, key: str, name: str, path: str) -> tuple[Finding, Document | None]:
        what = f"{self._key}.{key} is {name!r}"
        try:
            found = self._cluster.call("GET", path)
        except ApiRefusal as error:
            if error.status == _NOT_FOUND:
                return self._broken(f"{what}, and there is none of this name: make it, or name another"), None
            return self._unseen(f"{self._key}.{key}, {name!r},", error), None
        return self._good(f"{what}, which is there."), found

    def _queue(self) -> Finding:
        try:
            group = self._cluster.call("GET", "/apis/kueue.x-k8s.io")
        except ApiRefusal as error:
            if error.status == _NOT_FOUND:
                said = f"{self._key}.queue is {self._said.queue!r}, and this cluster has no Kueue"
                return self._broken(f"{said}: no job would ever start. Install it, or leave the queue empty")
            return self._unseen(f"{self._key}.queue", error)
        version = group["preferredVersion"]["groupVersion"]
        path = f"/apis/{version}/namespaces/{self._said.namespace}/localqueues/{self._said.queue}"
        return self._there("queue", self._said.queue, path)[0]

    def _registries(self) -> Iterator[Finding]:
        for host in self._said.registries:
            subject = f"registry {host}"
            try:
                open_to_us = self._images.greet(host)
            except (Away, Never) as error:
                words = f"{clean(str(error))}; see {self._key}.registries and {self._key}.pull_secret"
                yield Finding(subject, words, Grade.BROKEN)
            except Busy as error:  # of the login, which the cluster has
                yield Finding(subject, f"not checked: {clean(str(error))}", Grade.WEAK)
            else:
                if open_to_us:
                    yield Finding(subject, "It answers, and lets us in.")
                else:
                    words = f"it wants a login, and {self._key}.pull_secret has none for all of it"
                    yield Finding(subject, words, Grade.WEAK)

    # ---- in words

    def _good(self, sentence: str) -> Finding:
        return Finding(self._subject, sentence)

    def _weak(self, sentence: str) -> Finding:
        return Finding(self._subject, sentence, Grade.WEAK)

    def _broken(self, sentence: str) -> Finding:
        return Finding(self._subject, sentence, Grade.BROKEN)

    def _unseen(self, what: str, error: ApiRefusal) -> Finding:
        why = "no right to look" if error.status == _FORBIDDEN else clean(str(error))
        return self._weak(f"{what} was not checked: {why}")


def _agents_way(settings: Settings, name: str) -> Finding:
    """Whether agents may find this server; only a pod can tell for certain."""
    url = settings.pods_url(settings.sites[name])
    subject = f"agents at {name}"
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), _CONNECT).close()
    except (ValueError, KeyError):
        words = f"{url} is no address at a port: mend sites.{name}.kubernetes.agent_url"
        return Finding(subject, words, Grade.BROKEN)
    except OSError as error:
        words = (
            f"from here nobody was reached at {url}, where they look for this server "
            f"({error.strerror or error}): let web run there, or mend sites.{name}.kubernetes.agent_url"
        )
        return Finding(subject, words, Grade.WEAK)
    return Finding(subject, f"Somebody listens at {url}, where they look for this server.")


def _job(settings: PodSettings) -> Document:
    """A Job as those of this site are, and smaller than most."""
    spec = RunSpec(
        f"0check{secrets.token_hex(8)}",
        1,
        "check",
        "container",
        ("true",),
        image=settings.notebook_image or settings.agent_image,
        resources=Resources(cpu_milli=100, memory_bytes=64 * 1024**2, disk_bytes=16 * 1024**2),
        limits=AttemptLimits(duration=60, log_bytes=1024**2),
    )
    return manifest.job(spec, settings, "https://uws.invalid", "none")


def _group_and_resource(path: str) -> tuple[str, str]:
    words = path.split("/")
    return ("batch" if words[1] == "apis" else ""), words[-1]


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
