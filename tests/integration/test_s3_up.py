"""A whole server whose objects lie in S3: results and logs go there, are read there and leave it again."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from tests.s3_servers import S3Server
from tests.up_jobs import UpJobs, notebook
from tests.up_process import running_up
from tests.waiting import PATIENCE, until
from uws_server.storage.base import NotStored
from uws_server.storage.s3 import S3Store
from uws_server.storage.s3_bucket import Bucket

LARGE = 3 * 1024**2
CELLS = f"""
open("small.csv", "w").write("1,2,3\\n")
open("large.bin", "wb").write(bytes(range(256)) * {LARGE // 256})
open("large.html", "w").write("<script>1</script>" + " " * {LARGE})
print("all is written")
"""


@dataclass
class Reply:
    """An answer, redirects not followed."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


def ask(url: str, method: str = "GET", **headers: str) -> Reply:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    try:
        connection.request(
            method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers
        )
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, named, answer.read())
    finally:
        connection.close()


@dataclass(frozen=True)
class Site:
    """A running `up`, and its bucket as somebody else looks into it."""

    jobs: UpJobs
    bucket: Bucket
    store: S3Store

    def keys(self, job: str) -> set[str]:
        prefix = f"jobs/{job.rpartition('/')[2]}"
        return {stored.key.removeprefix(f"{prefix}/") for stored in self.store.list(prefix)}


@pytest.fixture(scope="module")
def site(s3_servers: Callable[[str], S3Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = s3_servers("versitygw")
    bucket = server.bucket("observatory/uws")
    environment = {
        **server.environment(),
        "UWS_OBJECTS__URL": f"s3://{bucket.name}/{bucket.prefix}",
        "UWS_OBJECTS__ENDPOINT": server.endpoint,
        "UWS_OBJECTS__PART": "5 MiB",  # the least that S3 takes
        # Another name for the same machine, as clients may know a store by another one than the server.
        "UWS_OBJECTS__PUBLIC_ENDPOINT": server.endpoint.replace("127.0.0.1", "localhost"),
    }
    data = tmp_path_factory.mktemp("up-s3") / "data"
    with running_up(data, environment=environment) as up:
        yield Site(UpJobs(up), bucket, S3Store(bucket))


@pytest.fixture(scope="module")
def job(site: Site) -> str:
    job = site.jobs.submit("notebook", notebook(CELLS))
    site.jobs.reach(job, "COMPLETED")
    return job


def names(site: Site, job: str) -> dict[str, str]:
    """Result ids by the end of their object's name."""
    manifest = json.loads(ask(f"{job}/results/manifest").body)
    return {result["name"].rpartition("/")[2]: result["id"] for result in manifest["results"]}


@pytest.mark.covers("4:object-store")
def test_results_logs_and_manifest_lie_in_the_bucket(site: Site, job: str) -> None:
    keys = site.keys(job)
    assert {"1/manifest.json", "1/results/small.csv", "1/results/large.bin"} <= keys
    assert any(key.startswith("1/logs/stdout/") for key in keys)
    assert any(key.startswith("parameters/") for key in keys)
    assert list((site.jobs.up.data / "objects").rglob("*")) == []


@pytest.mark.covers("3:results-redirect", "3:results-logs")
def test_small_ones_are_streamed_by_us(site: Site, job: str) -> None:
    small = ask(f"{job}/results/{names(site, job)['small.csv']}")
    assert (small.status, small.body) == (200, b"1,2,3\n")
    assert small.headers["content-security-policy"].startswith("sandbox")
    assert b"all is written" in ask(f"{job}/results/stdout").body


@pytest.mark.covers("3:results-redirect", "3:results-range", "4:object-store-links")
def test_large_ones_come_from_the_store_with_type_and_range(site: Site, job: str) -> None:
    url = f"{job}/results/{names(site, job)['large.bin']}"
    sent = ask(url)
    assert sent.status == 303
    link = sent.headers["location"]
    assert link.startswith(f"http://localhost:{urlsplit(site.bucket.endpoint).port}/")
    whole = ask(link)
    assert (whole.status, len(whole.body)) == (200, LARGE)
    assert whole.headers["content-type"] == "application/octet-stream"
    part = ask(link, Range="bytes=256-511")
    assert (part.status, part.body) == (206, bytes(range(256)))
    assert site.bucket.key is not None
    assert site.bucket.key.secret not in link


@pytest.mark.covers("3:results-head")
def test_head_is_answered_from_the_manifest(site: Site, job: str) -> None:
    head = ask(f"{job}/results/{names(site, job)['large.bin']}", "HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(LARGE))
    assert head.headers["accept-ranges"] == "bytes"


@pytest.mark.covers("3:results-redirect", "3:results-range")
def test_what_a_browser_runs_and_who_has_a_password_get_it_from_us(site: Site, job: str) -> None:
    page = ask(f"{job}/results/{names(site, job)['large.html']}")
    assert (page.status, len(page.body)) == (200, LARGE + 18)
    assert page.headers["content-disposition"].startswith("attachment")
    url = f"{job}/results/{names(site, job)['large.bin']}"
    basic = ask(url, Authorization="Basic dTpw", Range=f"bytes={LARGE - 2}-")
    assert (basic.status, basic.body) == (206, b"\xfe\xff")
    assert basic.headers["content-range"] == f"bytes {LARGE - 2}-{LARGE - 1}/{LARGE}"


@pytest.mark.covers("4:object-store")
def test_delete_takes_the_objects_away(site: Site) -> None:
    job = site.jobs.submit("notebook", notebook('open("a.csv", "w").write("1")'))
    site.jobs.reach(job, "COMPLETED")
    assert site.keys(job)
    assert ask(job, "DELETE").status == 303
    until(lambda: not site.keys(job), "the end of the job's objects")


@pytest.mark.covers("4:object-store-parts")
def test_a_large_result_goes_in_parts(site: Site) -> None:
    size = 12 * 1024**2
    cell = f"""open("large.fits", "wb").write(bytes(range(256)) * {size // 256})"""
    job = site.jobs.submit("notebook", notebook(cell))
    site.jobs.reach(job, "COMPLETED")
    (stored,) = (one for one in site.store.list("") if one.key.endswith("/results/large.fits"))
    assert stored.etag.endswith("-3")  # how S3 marks what came in so many parts
    whole = ask(ask(f"{job}/results/{names(site, job)['large.fits']}").headers["location"])
    assert whole.body == bytes(range(256)) * (size // 256)
    (listed,) = (
        one
        for one in json.loads(ask(f"{job}/results/manifest").body)["results"]
        if one["name"] == "results/large.fits"
    )
    assert listed["sha256"] == hashlib.sha256(whole.body).hexdigest()


@pytest.mark.covers("4:object-store-parts")
def test_delete_ends_what_is_on_its_way(site: Site) -> None:
    job = site.jobs.submit("notebook", notebook('open("a.csv", "w").write("1")'))
    site.jobs.reach(job, "COMPLETED")
    assert site.store.uploads is not None
    key = f"jobs/{job.rpartition('/')[2]}/1/results/large.fits"
    upload = site.store.uploads.begin(key)  # as of an agent that was killed for good
    assert site.store.uploads.parts(key, upload) == []
    assert ask(job, "DELETE").status == 303

    def ended() -> bool:
        assert site.store.uploads is not None
        try:
            site.store.uploads.parts(key, upload)
        except NotStored:
            return True
        return False

    until(ended, what="the end of the upload")


@pytest.mark.covers("4:object-store-secret")
def test_user_code_sees_no_key(site: Site) -> None:
    script = b"""
import os
from pathlib import Path
print("seen", "AWS_SECRET_ACCESS_KEY" in os.environ)
for process in Path("/proc").iterdir():
    try:
        print("seen", b"AWS_SECRET" in (process / "environ").read_bytes())
    except OSError:
        pass
"""
    job = site.jobs.submit("script", script)
    site.jobs.reach(job, "COMPLETED")
    said = set(site.jobs.result(job, "stdout").splitlines())
    assert said == {b"seen False"}


@pytest.mark.covers("4:object-store-secret")
def test_no_process_says_the_key(site: Site, job: str) -> None:
    assert site.bucket.key is not None
    assert site.bucket.key.secret not in site.jobs.up.said()
    assert all(
        site.bucket.key.secret.encode() not in path.read_bytes()
        for path in site.jobs.up.data.rglob("*")
        if path.is_file()
    )
