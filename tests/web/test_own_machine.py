"""A server for its own machine, and the web pages that a browser there may show."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.web.world import World

OWN = "localhost:8080"
POST = ("POST", "/stack/async")


@pytest.fixture(params=["", f"http://{OWN}"], ids=["directly", "by a proxy of the same machine"])
def pages(world: World, request: pytest.FixtureRequest) -> FlaskClient:
    return world.app(own_machine=True, base_url=request.param).test_client()


def ask(client: FlaskClient, method: str, path: str, host: str = OWN, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"POST": "scale=1", "PUT": "1"}.get(method)
    kind = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
    return client.open(path, method=method, data=body, headers={"Host": host, **kind, **named})


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        (*POST, {"Sec_Fetch_Site": "cross-site"}),
        (*POST, {"Sec_Fetch_Site": "same-site", "Origin": "http://localhost:3000"}),  # another port's page
        (*POST, {"Origin": "https://evil.example"}),
        (*POST, {"Origin": "null"}),
        (*POST, {"Origin": f"http://{OWN}.evil.example"}),
        ("GET", "/stack/sync?scale=1", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}),
        ("GET", "/stack/sync/?scale=1", {"Sec_Fetch_Site": "cross-site"}),
    ],
)
def test_pages_of_others_start_nothing(
    pages: FlaskClient, method: str, path: str, headers: dict[str, str]
) -> None:
    refused = ask(pages, method, path, **headers)
    assert refused.status_code == 403
    assert refused.text == "this server is for its own machine: pages of other sites can change nothing here"
    assert ask(pages, "GET", "/stack/async", Accept="application/json").get_json()["jobs"] == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nor_do_they_change_anything(pages: FlaskClient, method: str) -> None:
    path = ask(pages, *POST).headers["Location"].removeprefix(f"http://{OWN}")
    target = f"{path}/parameters/scale" if method == "PUT" else path
    assert ask(pages, method, target, Origin="https://evil.example").status_code == 403
    assert ask(pages, method, target).status_code == 303


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.2:8080"],
)
def test_a_name_that_came_to_mean_this_machine_is_refused(pages: FlaskClient, host: str) -> None:
    for method, path in (("GET", "/stack/async"), ("GET", "/services"), POST):
        refused = ask(pages, method, path, host)
        assert refused.status_code == 403
        assert "web.base_url" in refused.text


@pytest.mark.parametrize(
    "host", ["localhost", OWN, "127.0.0.1:8080", "127.3.2.1", "[::1]:8080", "uws.localhost:1"]
)
@pytest.mark.parametrize(
    "headers",
    [
        {},  # every program
        {"Sec_Fetch_Site": "none"},  # typed by a person
        {"Sec_Fetch_Site": "same-origin", "Origin": "http://other"},  # a page of ours; the browser knows best
    ],
)
def test_people_and_programs_of_this_machine_are_served(
    pages: FlaskClient, host: str, headers: dict[str, str]
) -> None:
    assert ask(pages, *POST, host, **headers).status_code == 303
    assert ask(pages, *POST, host, Origin=f"http://{host}").status_code == 303
    assert ask(pages, "GET", "/stack/async", host, Sec_Fetch_Site="cross-site").status_code == 200


def test_a_server_for_others_takes_everybody(world: World) -> None:
    client = world.app().test_client()
    assert ask(client, *POST, "archive.example", Origin="https://portal.example").status_code == 303
