"""The names that a server without a base URL may be called by: it builds its addresses from them."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.web.world import BASE, World

covers = pytest.mark.covers
NAMES = frozenset({"labserver", "uws-web.batch"})


@pytest.fixture
def open_to_all(world: World) -> FlaskClient:
    """As `auth.anonymous: anywhere` without `web.base_url` makes it."""
    return world.app(base_url="", names=NAMES).test_client()


def create(client: FlaskClient, host: str) -> Any:
    return client.post("/stack/async", data={"scale": "1"}, headers={"Host": host})


@covers("UWS-13")
@pytest.mark.parametrize(
    "host",
    [
        *("192.0.2.7", "192.0.2.7:8080", "[2001:db8::7]:8080", "127.0.0.1:8080", "[::1]", "localhost:8080"),
        *("labserver:8080", "LabServer", "uws-web.batch"),
    ],
)
def test_addresses_are_made_of_the_host_that_was_called(open_to_all: FlaskClient, host: str) -> None:
    created = create(open_to_all, host)
    assert created.status_code == 303
    assert created.headers["Location"].startswith(f"http://{host}/stack/async/")


@covers("UWS-13")
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "labserver.evil.example", "192.0.2.7.evil.example", "3221225991"],
)
def test_no_address_is_made_of_a_name_that_anybody_can_choose(open_to_all: FlaskClient, host: str) -> None:
    for answer in (create(open_to_all, host), open_to_all.get("/services", headers={"Host": host})):
        assert answer.status_code == 403
        assert "Location" not in answer.headers
        assert "web.base_url" in answer.text
    listed = open_to_all.get("/stack/async", headers={"Host": "labserver", "Accept": "application/json"})
    assert listed.get_json()["jobs"] == []


@covers("UWS-13")
def test_with_a_base_url_no_host_is_believed(world: World) -> None:
    created = create(world.app().test_client(), "evil.example")
    assert created.headers["Location"].startswith(f"{BASE}/stack/async/")


def test_a_host_that_is_none_is_refused(open_to_all: FlaskClient) -> None:
    assert create(open_to_all, 'a"><script>').status_code == 400
