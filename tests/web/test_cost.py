"""What one request costs in calls to the store; each is one call to Redis (`tests/contract`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.web.test_parameters import field, multipart, send
from tests.web.world import Client, World


@pytest.fixture
def calls(world: World, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each method of the store was called."""
    counted: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(world.store, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return method(*arguments, **named)

        monkeypatch.setattr(world.store, name, counting)

    for name in (
        "get",
        "get_many",
        "select",
        "create",
        "change",
        "schedule_clearance",
        "now",
        "waiting",
        "due",
    ):
        count(name)
    return counted


@pytest.mark.covers("3:uws-resources")
@pytest.mark.parametrize(
    ("method", "below", "data", "cost"),
    [
        ("GET", "", None, {"get": 1}),
        ("GET", "/phase", None, {"get": 1}),
        ("GET", "/parameters/note", None, {"get": 1}),
        ("POST", "/phase", {"PHASE": "RUN"}, {"get": 1, "change": 1}),
        ("POST", "/phase", {"PHASE": "ABORT"}, {"get": 1, "change": 1}),
        ("POST", "/destruction", {"DESTRUCTION": "2027-01-01"}, {"get": 1, "change": 1}),
        ("POST", "/executionduration", {"EXECUTIONDURATION": "9"}, {"get": 1, "change": 1}),
        ("DELETE", "", None, {"get": 1, "change": 1}),
        ("POST", "/parameters", {"scale": "2"}, {"get": 2, "change": 1}),  # asked before the body is read
        ("PUT", "/parameters/mask", b"content", {"get": 2, "change": 1}),
    ],
)
def test_one_request_for_a_job(
    client: Client, calls: Counter[str], method: str, below: str, data: Any, cost: dict[str, int]
) -> None:
    path = client.create(data={"note": "n"})
    calls.clear()
    assert client.open(f"{path}{below}", method, data=data).status_code < 400
    assert calls == cost


def test_making_and_listing_jobs(client: Client, calls: Counter[str]) -> None:
    client.create(data={"scale": "1", "PHASE": "RUN"})
    assert calls == {"create": 1}
    calls.clear()
    send(client, multipart((field("mask", "m"), b"content")))
    assert calls == {"schedule_clearance": 1, "now": 1, "create": 1}
    calls.clear()
    client.get("/stack/async")
    assert calls == {"select": 1}
    calls.clear()
    for address in ("/services", "/openapi.json", "/", "/stack/capabilities"):
        client.get(address)
    assert calls == {}
