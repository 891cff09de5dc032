"""What a start makes of an API server's answers, over real HTTP."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runners.base import Busy, NotYet, Unrunnable
from runners.kubernetes.configured import open_runner
from runners.kubernetes.logins import KEY
from runners.kubernetes.runner import KubernetesRunner
from tests.unit.api_double import ApiDouble, serving
from tests.unit.registry_double import PASSWORD, USER, serving_registry
from uws_server.domain.runspec import RunSpec
from uws_server.settings import Settings

CONTAINER = RunSpec.from_json(
    (Path(__file__).parents[1] / "golden" / "runspec" / "container.json").read_bytes()
)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiDouble]:
    with serving(tmp_path) as (double, _):
        yield double


def runner(tmp_path: Path, **more: Any) -> KubernetesRunner:
    """One for the API server that is served from this directory."""
    said = {
        "kubeconfig": str(tmp_path / "kubeconfig"),
        "agent_image": "example/uws-agent:1",
        "agent_url": "https://uws.example",
        **more,
    }
    site = {"runner": "kubernetes", "kubernetes": said}
    return open_runner(Settings.model_validate({"sites": {"cluster": site}}), "cluster")


def start(runner: KubernetesRunner, **changes: Any) -> None:
    """Start a container's attempt."""
    try:
        runner.start(replace(CONTAINER, **changes), "https://uws.example/agent/v1", "a-token")
    finally:
        runner.close()


# ---- the pull secret ---------------------------------------------------------------------------------


@pytest.mark.covers("4:any-image")
@pytest.mark.parametrize(
    ("status", "secret"),
    [(403, {"message": "forbidden"}), (500, {"message": "oops"}), (200, {}), (200, {"data": {KEY: "!"}})],
)
def test_a_pull_secret_that_cannot_be_read_holds_up_what_needs_it_alone(
    api: ApiDouble, tmp_path: Path, status: int, secret: dict[str, Any]
) -> None:
    api.before = lambda kind, _what: (status, secret) if kind == "pull" else None
    with serving_registry() as registry:
        registry.auth = "basic"
        registry.add("1", {"Cmd": ["stars"]})
        at = {"registry.example": {"url": f"http://{registry.address}"}}
        ours = runner(tmp_path, registries=at, pull_secret="pull")
        with pytest.raises(NotYet, match="the pull secret pull cannot be read: "):
            start(ours, image="registry.example/team/stars:1", command=())
        assert api.written == []
        login = json.dumps({"auths": {"registry.example": {"username": USER, "password": PASSWORD}}})
        api.before = lambda _kind, _what: (200, {"data": {KEY: b64encode(login.encode()).decode()}})
        start(
            runner(tmp_path, registries=at, pull_secret="pull"),
            image="registry.example/team/stars:1",
            command=(),
        )
    assert [method for method, _ in api.written] == ["POST"]


@pytest.mark.covers("4:any-image")
def test_an_api_server_that_does_not_show_the_pull_secret_takes_no_job(tmp_path: Path) -> None:
    with serving(tmp_path):
        pass
    with serving_registry() as registry:
        registry.auth = "basic"
        at = {"registry.example": {"url": f"http://{registry.address}"}}
        with pytest.raises(Busy, match="the API server does not answer") as said:
            start(
                runner(tmp_path, registries=at, pull_secret="pull"),
                image="registry.example/team/stars:1",
                command=(),
            )
    assert not isinstance(said.value, NotYet)


# ---- what the API server says of a new Job -----------------------------------------------------------

JOB = 'jobs.batch "uws-1-1" is forbidden: '
WEBHOOK = 'admission webhook "images.example" denied the request: '
POLICY = f"{JOB}ValidatingAdmissionPolicy 'images' with binding 'all' denied request: "
ACCOUNT = 'jobs.batch is forbidden: User "system:serviceaccount:uws:uws-start" cannot create resource "jobs"'


@pytest.mark.covers("4:fault-webhook")
@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, f"{WEBHOOK}the image is not signed", Unrunnable),
        (400, f"{WEBHOOK}the image is not signed", Unrunnable),
        (409, f"{WEBHOOK}the image is not signed", Unrunnable),
        (403, f"{WEBHOOK}{JOB}exceeded quota: of ours", Unrunnable),
        (403, f"{POLICY}the image is not signed", Unrunnable),
        (401, f"{POLICY}the image is not signed", Unrunnable),
        (403, f"{JOB}no such priority", Unrunnable),
        (422, 'Job.batch "uws-1-1" is invalid: spec: Required value', Unrunnable),
        (413, "the request is too large", Unrunnable),
        (500, f"{WEBHOOK}our database is away", NotYet),
        (429, f"{WEBHOOK}too many", NotYet),
        (403, f"{JOB}exceeded quota: q, requested: count/jobs.batch=1, used: 2, limited: 2", Busy),
        (403, f'{ACCOUNT} in API group "batch" in the namespace "uws-jobs"', Busy),
        (403, f"{JOB}unable to create new content in namespace x because it is being terminated", Busy),
        (401, "Unauthorized", Busy),
        (404, 'namespaces "uws-jobs" not found', Busy),
        (409, "the object has been modified", Busy),
        (429, "too many requests", Busy),
        (500, 'failed calling webhook "images.example": context deadline exceeded', Busy),
        (503, "the server is currently unable to handle the request", Busy),
    ],
)
def test_a_no_is_of_the_job_or_of_the_site(
    api: ApiDouble, tmp_path: Path, status: int, message: str, kind: type[Exception]
) -> None:
    api.take = lambda _method, _job: (status, {"kind": "Status", "message": f"{message}\n\x1b[31m"})
    with pytest.raises(kind) as said:
        start(runner(tmp_path))
    assert type(said.value) is kind
    assert str(said.value).endswith(f": {message}")
    assert [method for method, _ in api.written] == ["POST"]


@pytest.mark.covers("4:adoption")
@pytest.mark.parametrize(("status", "kind"), [(404, NotYet), (403, Busy), (500, Busy)])
def test_a_former_job_that_is_gone_by_now_holds_up_this_job_alone(
    api: ApiDouble, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    api.take = lambda _method, _job: (409, {"reason": "AlreadyExists", "message": "already exists"})
    api.before = lambda _kind, _what: (status, {"message": "no"})
    with pytest.raises(kind) as said:
        start(runner(tmp_path))
    assert type(said.value) is kind


@pytest.mark.covers("4:manifest")
def test_a_job_that_is_larger_than_a_cluster_stores_is_not_sent(api: ApiDouble, tmp_path: Path) -> None:
    with pytest.raises(Unrunnable, match=r"^The job's command and environment are too long\.$"):
        start(runner(tmp_path), command=("echo", "é" * 2**19))
    assert api.written == []
    start(runner(tmp_path), command=("echo", "é" * 2**18))
    assert len(api.written) == 1


@pytest.mark.covers("4:fault-webhook")
def test_a_job_whose_labels_were_changed_is_left_to_who_may_end_it(api: ApiDouble, tmp_path: Path) -> None:
    changed: list[dict[str, Any]] = []

    def take(method: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method == "PATCH":  # the chart's account for start may not
            return 403, {"reason": "Forbidden", "message": f"{ACCOUNT}"}
        changed.append({**document, "metadata": {**document["metadata"], "labels": {"team": "stars"}}})
        return 201, changed[0]

    api.take = take
    with pytest.raises(Unrunnable, match="The cluster changes the labels of Jobs"):
        start(runner(tmp_path))
    assert [method for method, _ in api.written] == ["POST"]
    # The worker makes it STOPPING, for which the site is asked to end it.
    api.take = lambda _method, document: (200, document)
    ours = runner(tmp_path)
    ours.stop(CONTAINER.job_id, CONTAINER.attempt)
    ours.close()
    method, document = api.written[-1]
    assert method == "PATCH"
    assert document["metadata"]["labels"].items() <= api.written[0][1]["metadata"]["labels"].items()
