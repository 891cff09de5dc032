"""Results and logs: what is listed, what is read, in whole and in part, and what a browser is kept from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web.world import BASE, UWS, Client, World
from uws_server.domain import events
from uws_server.domain.job import Job, Result
from uws_server.domain.phase import Phase
from uws_server.service.results import Segments
from uws_server.storage.links import Links
from uws_server.storage.memory import MemoryStore

covers = pytest.mark.covers
BYTES = bytes(range(256)) * 20


def finished(
    world: World, media_type: str = "application/fits", result_id: str = "table", **changes: object
) -> Job:
    """A completed job with one result in the object store."""
    result = Result(result_id, "results/out/t.fits", len(BYTES), media_type, "ab" * 32)
    job = world.in_phase(Phase.COMPLETED, results=(result,), logs=(6, 0), **changes)
    world.objects.put(f"{job.attempt_prefix}/results/out/t.fits", BYTES)
    return job


def log(world: World, job: Job, name: str, *segments: tuple[int, bytes]) -> None:
    for offset, content in segments:
        world.objects.put(f"{job.attempt_prefix}/logs/{name}/{offset:015d}", content)


def listed(client: Client, job: Job) -> dict[str | None, dict[str, str]]:
    root = client.xml(f"/stack/async/{job.id}/results")
    assert [dict(e.attrib) for e in client.xml(f"/stack/async/{job.id}").iter(f"{UWS}result")] == [
        dict(e.attrib) for e in root
    ]
    return {element.get("id"): {str(k): str(v) for k, v in element.attrib.items()} for element in root}


@covers("UWS-22", "DALI-10", "UWS-02", "3:results-manifest")
def test_a_finished_job_lists_results_logs_and_manifest(client: Client, world: World) -> None:
    job = finished(world)
    found = listed(client, job)
    assert list(found) == ["table", "stdout", "stderr", "manifest"]
    assert found["table"] == {
        "id": "table",
        "{http://www.w3.org/1999/xlink}type": "simple",
        "{http://www.w3.org/1999/xlink}href": f"{BASE}/stack/async/{job.id}/results/table",
        "size": str(len(BYTES)),
        "mime-type": "application/fits",
        "{urn:uwscustom}sha256": "ab" * 32,
    }
    assert (found["stdout"]["size"], found["stderr"]["size"]) == ("6", "0")


@covers("UWS-22", "3:results-logs", "UWS-28")
@pytest.mark.parametrize("phase", list(Phase))
def test_what_each_phase_lists(client: Client, world: World, phase: Phase) -> None:
    found = listed(client, world.in_phase(phase))
    logs = {"stdout", "stderr"}
    expected: dict[Phase, set[str]] = {
        Phase.EXECUTING: logs,
        Phase.SUSPENDED: logs,
        Phase.UNKNOWN: logs,
        Phase.COMPLETED: {"table", "preview", "manifest"} | logs,
        Phase.ERROR: {"manifest"} | logs,
        Phase.ABORTED: {"table", "manifest"} | logs,
    }
    assert set(found) == expected.get(phase, set())


@covers("DALI-10", "DALI-11", "3:results-head", "3:results-media-type")
def test_a_result_is_read(client: Client, world: World) -> None:
    job = finished(world)
    path = f"/stack/async/{job.id}/results/table"
    response = client.get(path)
    assert (response.status_code, response.data) == (200, BYTES)
    assert response.content_type == "application/fits"
    assert response.headers["Content-Length"] == str(len(BYTES))
    assert response.headers["Last-Modified"]
    assert response.headers["Content-Disposition"].startswith('inline; filename="t.fits"')
    etag = response.headers["ETag"]
    head = client.head(path)
    assert (head.status_code, head.data, head.headers["ETag"]) == (200, b"", etag)
    assert head.headers["Content-Length"] == str(len(BYTES))
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304


@covers("3:results-range")
@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=10-99999999", 206, slice(10, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=5-2", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("nonsense", 200, slice(None)),
    ],
)
def test_ranges(client: Client, world: World, wanted: str, status: int, expected: slice | None) -> None:
    job = finished(world)
    response = client.get(f"/stack/async/{job.id}/results/table", headers={"Range": wanted})
    assert response.status_code == status
    if expected is not None:
        assert response.data == BYTES[expected]


@covers("3:results-media-type")
@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        *(
            ("text/plain", "inline"),
            ("image/png", "inline"),
            ("application/fits", "inline"),
            ("text/csv", "inline"),
        ),
        *(
            ("text/html", "attachment"),
            ("TEXT/HTML; charset=utf-8", "attachment"),
            ("image/svg+xml", "attachment"),
        ),
        *(
            ("application/xhtml+xml", "attachment"),
            ("text/xml", "attachment"),
            ("application/pdf", "attachment"),
        ),
        *(("text/javascript", "attachment"), ("application/javascript", "attachment")),
        ("application/x-votable+xml", "attachment"),
    ],
)
def test_nothing_of_users_runs_in_a_browser(client: Client, world: World, media_type: str, kind: str) -> None:
    job = finished(world, media_type)
    response = client.get(f"/stack/async/{job.id}/results/table")
    assert response.content_type == media_type
    assert response.headers["Content-Security-Policy"].startswith("sandbox")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Disposition"].startswith(f"{kind};")


@covers("3:bad-path", "UWS-05")
@pytest.mark.parametrize(
    "result_id",
    [
        "../manifest.json",
        "results/out/t.fits",
        "out/t.fits",
        "..",
        "%00",
        "logs/stdout/000000000000000",
        "TABLE",
        "t" * 4000,
    ],
)
def test_results_are_found_by_id_and_nothing_else(client: Client, world: World, result_id: str) -> None:
    job = finished(world)
    assert client.get(f"/stack/async/{job.id}/results/{result_id}").status_code == 404


def test_a_result_id_may_be_a_path(client: Client, world: World) -> None:
    job = finished(world, result_id="tables/a b/é.fits")
    (href,) = [
        e["{http://www.w3.org/1999/xlink}href"] for i, e in listed(client, job).items() if "tables" in str(i)
    ]
    assert href.endswith("/results/tables/a%20b/%C3%A9.fits")
    assert client.get(href.removeprefix(BASE)).data == BYTES


def test_a_result_that_storage_lost_is_404(client: Client, world: World) -> None:
    job = finished(world)
    world.objects.delete(job.prefix)
    assert client.get(f"/stack/async/{job.id}/results/table").status_code == 404


@covers("3:results-redirect")
def test_large_results_come_from_the_store_itself(world: World) -> None:
    client = World.client(replace_redirect(world, 1000))
    job = finished(world)
    path = f"/stack/async/{job.id}/results/table"
    response = client.get(path)
    assert response.status_code == 303
    assert response.headers["Location"].startswith("https://store.example/storage/v1/jobs/")
    # What signed links cannot do, what browsers may run, and Basic auth, is streamed.
    assert client.head(path).headers["Content-Length"] == str(len(BYTES))
    assert client.get(path, headers={"Authorization": "Basic YTpi"}).data == BYTES
    assert client.get(f"/stack/async/{finished(world, 'text/html').id}/results/table").data == BYTES
    assert client.get(f"/stack/async/{job.id}/results/stdout").status_code == 200
    small = World.client(replace_redirect(world, len(BYTES) + 1))
    assert small.get(path).data == BYTES


def replace_redirect(world: World, size: int) -> World:
    world.redirect_bytes = size
    return world


@covers("3:results-logs", "UWS-22")
def test_a_log_is_read_while_it_grows(client: Client, world: World) -> None:
    job = world.in_phase(Phase.EXECUTING)
    path = f"/stack/async/{job.id}/results/stdout"
    assert client.get(path).data == b""
    log(world, job, "stdout", (0, b"one\n"))
    first = client.get(path)
    assert first.data == b"one\n"
    assert first.content_type == "text/plain; charset=utf-8"
    assert client.get(path, headers={"Range": "bytes=4-"}).status_code == 416
    log(world, job, "stdout", (4, b"two\n"), (8, b"three\n"))
    assert client.get(path, headers={"Range": "bytes=4-"}).data == b"two\nthree\n"
    assert client.get(path, headers={"Range": "bytes=6-9"}).data == b"o\nth"
    assert client.get(path).headers["ETag"] != first.headers["ETag"]
    assert client.head(path).headers["Content-Length"] == "14"
    assert client.get(f"/stack/async/{job.id}/results/stderr").data == b""
    world.apply(job.id, events.Succeeded(1, job.created, (), (14, 0)))
    assert client.get(path).data == b"one\ntwo\nthree\n"
    log(world, job, "stdout", (14, b"late\n"))  # by a link that was bought before
    assert client.get(path).data == b"one\ntwo\nthree\n"


@covers("3:results-logs")
@given(
    content=st.binary(min_size=1, max_size=200),
    cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=12),
    start=st.integers(0, 220),
    length=st.integers(0, 220),
    most=st.none() | st.integers(0, 220),
)
def test_segments_are_one_text_up_to_the_first_gap(
    content: bytes, cuts: list[tuple[int, int]], start: int, length: int, most: int | None
) -> None:
    objects = MemoryStore(Links(b"s" * 16))
    held = bytearray(len(content))
    for offset, size in dict(cuts).items():
        if offset < len(content):
            objects.put(f"log/{offset:015d}", content[offset : offset + size])
            held[offset : offset + size] = b"\x01" * len(content[offset : offset + size])
    whole = content[: (bytes(held) + b"\x00").index(b"\x00")][:most]
    segments = Segments(objects, list(objects.list("log")), most)
    assert segments.size == len(whole)
    assert b"".join(segments.read("", start, start + length)) == whole[start : start + length]
    assert b"".join(segments.read("")) == whole


@covers("3:results-manifest")
def test_the_manifest_is_a_result(client: Client, world: World) -> None:
    job = finished(world)
    path = f"/stack/async/{job.id}/results/manifest"
    assert client.get(path).status_code == 404
    world.objects.put(f"{job.attempt_prefix}/manifest.json", json.dumps({"version": 1}).encode())
    response = client.get(path)
    assert (response.content_type, response.get_json()) == ("application/json", {"version": 1})


@covers("UWS-22")
def test_ids_stay_unique_whatever_a_job_calls_its_results(client: Client, world: World) -> None:
    job = finished(world, result_id="stdout")
    assert list(listed(client, job)) == ["stdout", "stderr", "manifest"]
    assert client.get(f"/stack/async/{job.id}/results/stdout").data == BYTES
    assert replace(job, logs=None) != job
