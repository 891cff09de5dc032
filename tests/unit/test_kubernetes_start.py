"""What a start makes of an API server's answers, over real HTTP."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runners.base import Busy, NotYet
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
