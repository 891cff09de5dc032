"""The pages for people: everything can be clicked, and nothing in them is run."""

from __future__ import annotations

import re

import pytest
from lxml import html

from tests.web.world import BASE, UWS, Client, World
from uws_server.domain.job import ErrorSummary, Parameter
from uws_server.domain.phase import Phase

covers = pytest.mark.covers


def links(client: Client, path: str) -> dict[str, str]:
    """Where a page's links lead on this server, by their text."""
    response = client.get(path)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    found = {str(a.xpath("string()")): str(a.get("href")) for a in html.fromstring(response.text).iter("a")}
    return {text: to.removeprefix(BASE) for text, to in found.items() if to.startswith(BASE)}


@covers("3:stylesheet", "UWS-74")
def test_from_the_services_to_a_result_by_clicking(client: Client, world: World) -> None:
    job = world.in_phase(Phase.COMPLETED)
    world.objects.put(f"jobs/{job.id}/1/results/t.ecsv", b"x" * 3000)
    services = re.findall(rf'href="{BASE}(/ui/[a-z-]+)"', client.get("/").text)
    assert "/ui/stack" in services
    (page,) = [to for text, to in links(client, "/ui/stack").items() if text == job.id]
    on_page = links(client, page)
    assert client.get(on_page["table"]).data == b"x" * 3000
    assert on_page["Jobs of this service"] == "/ui/stack"
    # The standard's own addresses answer as the standard says, also to a browser.
    accept = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    assert client.xml(on_page["This job as UWS has it"], headers=accept).tag == f"{UWS}job"


@pytest.mark.parametrize("phase", list(Phase))
def test_a_page_for_a_job_in_every_phase(client: Client, world: World, phase: Phase) -> None:
    job = world.in_phase(phase)
    page = client.get(f"/ui/stack/{job.id}").text
    assert f"<td>{phase.value}</td>" in page
    assert "a &lt; b &amp; c" in page
    if job.error:
        assert job.error.message.replace("'", "&#x27;") in page


def test_what_users_say_stays_text(client: Client, world: World) -> None:
    evil = '"><script>alert(1)</script>'
    job = world.in_phase(
        Phase.ERROR,
        run_id=evil,
        reason=evil,
        error=ErrorSummary(evil, transient=False),
        parameters=(Parameter("note", evil), Parameter("query", evil * 100)),
    )
    for path in ("/ui/stack", f"/ui/stack/{job.id}"):
        response = client.get(path)
        assert "<script" not in response.text
        assert "&lt;script" in response.text
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@covers("UWS-78", "UWS-05")
def test_pages_show_what_their_reader_may_see(client: Client, world: World) -> None:
    job = world.in_phase(Phase.PENDING, owner="somebody")
    assert client.get(f"/ui/stack/{job.id}").status_code == 403
    assert "There are none" in client.get("/ui/stack").text
    assert client.get("/ui/stack/1").status_code == 404
    assert client.get("/ui/nosuch").status_code == 404
    assert client.post("/ui/stack").status_code == 405
