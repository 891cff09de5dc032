"""What caches may keep and what browsers may guess, of every route."""

from __future__ import annotations

import re

import pytest

from tests.web.world import DIGEST, Client, World
from uws_server.domain.job import Parameter, Upload
from uws_server.domain.phase import Phase

covers = pytest.mark.covers
PUBLISHED = {"/services", "/openapi.json", "/", "/stack/capabilities", "/static/uws.css"}


def addresses(world: World) -> list[str]:
    """Every address of the application that can be read, of a job that has everything."""
    mask = Parameter("mask", "mask.fits", Upload(2880, DIGEST, "application/fits", "k"))
    job = world.in_phase(Phase.ERROR, parameters=(mask,))
    world.objects.put(f"jobs/{job.id}/1/logs/stdout/000000000000000", b"x" * 120)
    world.objects.put(f"jobs/{job.id}/parameters/k", b"x" * 2880)
    filled = {"service": "stack", "job_id": job.id, "result_id": "stdout", "name": "mask"}
    found = [
        re.sub(r"<(?:path:)?(\w+)>", lambda name: filled[name[1]], rule.rule)
        for rule in world.app().url_map.iter_rules()
        if "GET" in (rule.methods or ()) and not rule.endpoint.startswith(("storage", "static", "sync.start"))
    ]
    return [*found, "/static/uws.css"]


@covers("UWS-52")
def test_every_answer_says_whether_it_may_be_kept(client: Client, world: World) -> None:
    for address in addresses(world):
        for method in ("GET", "HEAD", "PATCH"):
            for accept in ("*/*", "application/json"):
                answer = client.open(address, method, headers={"Accept": accept})
                said = answer.headers.get("Cache-Control")
                if address in PUBLISHED and method != "PATCH":
                    assert said == "no-cache", address
                elif answer.status_code == 200 and address.endswith(("/stdout", "/mask")):
                    assert said == "private, no-cache", address
                else:
                    assert said == "no-store", (method, address, answer.status_code)
                assert answer.headers["X-Content-Type-Options"] == "nosniff", (method, address)


@covers("UWS-52", "3:services", "3:openapi")
def test_what_is_published_is_sent_once(client: Client, world: World) -> None:
    unchanged = [*PUBLISHED, *(one for one in addresses(world) if one.endswith(("/stdout", "/mask")))]
    for address in unchanged:
        etag = client.get(address).headers["ETag"]
        again = client.get(address, headers={"If-None-Match": etag})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
        assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200


@covers("UWS-52")
def test_a_log_that_has_nothing_new_is_not_kept(client: Client, world: World) -> None:
    (log,) = [one for one in addresses(world) if one.endswith("/stdout")]
    refused = client.get(log, headers={"Range": "bytes=120-"})
    assert (refused.status_code, refused.headers["Cache-Control"]) == (416, "no-store")


@covers("3:bad-plain-sentence", "UWS-52")
@pytest.mark.parametrize(
    ("method", "address"),
    [("GET", "/nosuch"), ("POST", "/agent/v1/links"), ("GET", "/storage/v1/x"), ("POST", "/nosuch/async")],
)
def test_no_refusal_is_kept(client: Client, method: str, address: str) -> None:
    refused = client.open(address, method)
    assert refused.status_code >= 400
    assert refused.headers["Cache-Control"] == "no-store"
    assert refused.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_for_people_runs_nothing_and_goes_into_no_frame(client: Client) -> None:
    headers = client.get("/").headers
    for word in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"):
        assert word in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
