"""Probes of a web process: what it says to everybody, and what to its operator alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.world import World
from uws_server.storage.base import StorageUnavailable
from uws_server.store.base import SCHEMA, StoreUnavailable

pytestmark = pytest.mark.covers("4:probes")
AT_OPERATOR = {"SERVER_PORT": "9090"}


class _Down:
    """Fails at whatever it is asked, with words that are nobody's business."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> object:
            raise self._error

        return fail


def test_ready_is_who_reaches_both_stores(world: World) -> None:
    response = world.client().get("/readyz")
    assert (response.status_code, response.text) == (200, "web: ok; redis: ok; objects: ok")


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("store", "redis: does not answer"),
        ("newer", "redis: is of a later version than this program knows"),
        ("objects", "objects: does not answer"),
        ("draining", "web: is about to stop"),
    ],
)
def test_who_cannot_work_says_why_and_names_no_address(world: World, state: str, line: str) -> None:
    secret = "redis://:password@10.0.0.1"
    changes: dict[str, Any] = {
        "store": {"store": _Down(StoreUnavailable(secret))},
        "objects": {"objects": _Down(StorageUnavailable(secret))},
    }.get(state, {})
    world.draining = state == "draining"
    if state == "newer":
        world.store.schema(SCHEMA + 1)
    client = world.client(**changes)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert line in response.text.split("; ")
    assert "10.0.0.1" not in response.text
    assert client.get("/healthz").status_code == 200
    # The chart asks for this: a store for objects that is away must not take all of web away.
    assert client.get("/readyz/redis").status_code == (503 if state in {"store", "newer"} else 200)


def test_there_is_nothing_else_to_ask_for(world: World) -> None:
    client = world.client()
    for path in ("/readyz/secret", "/health"):
        assert client.get(path).status_code == 404
    assert client.post("/readyz").status_code == 405


@pytest.mark.covers("4:metrics")
def test_numbers_are_told_at_the_operators_port_and_nothing_else_is_done_there(world: World) -> None:
    client = world.client(operator_port=9090)
    assert client.get("/metrics").status_code == 404
    told = client.get("/metrics", environ_overrides=AT_OPERATOR)
    assert told.status_code == 200
    assert 'uws_http_requests_total{method="GET",route="/metrics",status="404"}' in told.text
    for path in ("/", "/stack/async", "/services", "/metricsfor", "/static/uws.css"):
        assert client.get(path, environ_overrides=AT_OPERATOR).status_code == 404
    assert client.post("/stack/async", environ_overrides=AT_OPERATOR).status_code == 404
    for path in ("/healthz", "/readyz", "/readyz/redis"):
        assert client.get(path, environ_overrides=AT_OPERATOR).status_code == 200


@pytest.mark.covers("4:metrics")
def test_numbers_are_told_while_no_store_answers(world: World) -> None:
    down = {"store": _Down(StoreUnavailable("x")), "objects": _Down(StorageUnavailable("x"))}
    told = world.client(operator_port=9090, **down).get("/metrics", environ_overrides=AT_OPERATOR)
    assert told.status_code == 200


@pytest.mark.covers("4:metrics")
def test_requests_are_counted_by_route_not_by_path(world: World) -> None:
    client = world.client(operator_port=9090)
    for number in range(20):
        client.get(f"/stack/async/0000000000000000000000{number}/phase")
        client.get(f"/nowhere/{number}/{number}/at/all")
    client.open("/services", method="BREW")
    told = client.get("/metrics", environ_overrides=AT_OPERATOR).text
    rows = {line.split("}")[0] for line in told.splitlines() if line.startswith("uws_http_requests_total{")}
    assert any('route="/<service>/async/<job_id>/phase",status="404"' in row for row in rows)
    assert any('method="other"' in row for row in rows)
    assert not [row for row in rows if "00000" in row or "nowhere" in row or "BREW" in row]
