"""Large results in parts: a real agent, the server's own door, and a real S3 server behind a relay."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from flask import Response, request

from tests.integration.agent_door import JOB, Attempt, kill, serving
from tests.integration.real_door import TABLE, Server
from tests.s3_relay import S3Relay
from tests.s3_servers import SERVERS, S3Server
from tests.waiting import PATIENCE
from uws_server.domain.errors import BadRequest, Conflict, Forbidden, PartsMissing, TooLarge
from uws_server.domain.events import AbortRequested, Gone
from uws_server.domain.runspec import AttemptLimits
from uws_server.domain.wire import FENCED, Upload, Wanted, WantedParts
from uws_server.service.manifest import load_manifest
from uws_server.service.uploads import parameter_key
from uws_server.storage.base import StorageUnavailable
from uws_server.storage.s3 import S3Store
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.s3_requests import ask

pytestmark = pytest.mark.covers("4:object-store-parts")

MIB = 1024**2
PART = 5 * MIB  # the least that S3 takes
CONTENT = bytes(range(256)) * (12 * MIB // 256)
NAME = "results/large.fits"
KEY = f"jobs/{JOB}/1/{NAME}"


@dataclass
class World:
    """The door on a port, and what lies behind it."""

    server: Server
    relay: S3Relay
    bucket: Bucket
    port: int
    attempt: Attempt

    @property
    def file(self) -> Path:
        return self.attempt.outputs / "large.fits"

    def unfinished(self) -> list[str]:
        """Paths of the uploads that have begun and not ended."""
        assert self.bucket.key is not None
        answer = ask(self.bucket, self.bucket.key, "GET", "", {"uploads": ""})
        return [str(one.findtext("{*}Key")) for one in answer.iterfind("{*}Upload")]

    def part_of(self, size: int) -> None:
        """Go on as a server that was started again with parts of another size."""
        objects = self.server.objects
        assert isinstance(objects, S3Store)
        objects.uploads = S3Store(self.bucket, part_bytes=size).uploads

    def stored(self, key: str = KEY) -> bytes:
        return b"".join(self.server.objects.read(key))

    def results(self) -> dict[str, tuple[int, str | None]]:
        """Size and checksum of each result of the manifest that was handed in."""
        loaded = load_manifest(self.server.objects, self.server.job)
        assert loaded is not None
        return {result.name: (result.size, result.sha256) for result in loaded[0]}

    def holding(self, step: str) -> tuple[threading.Event, threading.Event]:
        """Hold the first request of this kind before the store sees it: it came, and it may be refused."""
        came, release = threading.Event(), threading.Event()

        def before(asked: str) -> Response | None:
            if asked != step or came.is_set():
                return None
            came.set()
            release.wait(PATIENCE)
            return Response("too late", 503)

        self.relay.before = before
        return came, release

    def kill_at(self, step: str) -> None:
        """An agent that is killed as by a crash when the store is asked for this."""
        came, release = self.holding(step)
        agent = self.attempt.start("follow")
        assert came.wait(PATIENCE)
        kill(agent)
        release.set()


on_each_server = pytest.mark.parametrize("s3", sorted(SERVERS), indirect=True)


@pytest.fixture
def s3(request: pytest.FixtureRequest, s3_servers: Callable[[str], S3Server]) -> S3Server:
    return s3_servers(getattr(request, "param", "versitygw"))


@pytest.fixture
def world(s3: S3Server, tmp_path: Path) -> Iterator[World]:
    behind = s3.bucket("of/ours")
    relay = S3Relay(s3.endpoint)
    with serving(relay.app()) as relay_port:
        bucket = replace(behind, endpoint=f"http://127.0.0.1:{relay_port}")
        server = Server(tmp_path / "store", S3Store(bucket, part_bytes=PART), 1024 * MIB)
        server.limits = AttemptLimits()
        with serving(server.app) as port:
            attempt = Attempt(tmp_path / "a", port, token=server.token)
            made = World(server, relay, behind, port, attempt)
            made.file.write_bytes(CONTENT)
            attempt.end()
            yield made


def put(link: str, body: bytes) -> int:
    """The status of the answer."""
    with urlopen(
        Request(link, body, {"Content-Type": "text/plain"}, method="PUT"), timeout=PATIENCE
    ) as answer:
        return int(answer.status)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_large_result_goes_in_parts_and_a_small_one_at_once(world: World) -> None:
    (world.attempt.outputs / "small.csv").write_bytes(b"1,2\n")
    (world.attempt.outputs / "one.part").write_bytes(bytes(PART))
    assert world.attempt.run("follow") == 0, world.attempt.said("stage-out")
    assert world.stored() == CONTENT
    assert world.results() == {
        NAME: (len(CONTENT), sha256(CONTENT)),
        "results/small.csv": (4, sha256(b"1,2\n")),
        "results/one.part": (PART, sha256(bytes(PART))),
    }
    assert world.relay.parts() == ["1", "2", "3"]
    assert world.relay.steps.count("complete") == 1
    assert world.unfinished() == []


@on_each_server
def test_what_is_there_stays_there_when_the_agent_is_killed(world: World) -> None:
    world.kill_at("part 2")
    assert world.relay.parts() == ["1"]
    assert world.attempt.run("follow") == 0
    assert world.relay.parts() == ["1", "2", "3"]
    assert world.relay.steps.count("begin") == 1
    assert world.stored() == CONTENT
    assert world.results() == {NAME: (len(CONTENT), sha256(CONTENT))}


@on_each_server
def test_parts_of_two_contents_never_become_one_object(world: World) -> None:
    """The file was written anew while nobody looked."""
    world.kill_at("part 3")
    other = CONTENT[::-1]
    world.file.write_bytes(other)
    assert world.attempt.run("follow") == 0
    assert world.relay.parts() == ["1", "2", "1", "2", "3"]
    assert world.stored() == other
    assert world.results() == {NAME: (len(other), sha256(other))}
    assert world.unfinished() == []


@on_each_server
def test_parts_of_two_sizes_never_become_one_object(world: World) -> None:
    """`objects.part` was set anew: the last of the old parts has the length of one of the new."""
    door, token = world.server.door, world.server.token
    content = CONTENT + CONTENT[::-1][: 3 * MIB]

    def send(upload: Upload) -> WantedParts:
        for link in upload.missing:
            assert put(link.url, content[link.start : link.start + link.size]) == 200
        return WantedParts(NAME, len(content), upload.upload)

    world.part_of(2 * PART)
    begun = send(door.parts(token, WantedParts(NAME, len(content))))
    world.part_of(PART)
    with pytest.raises(PartsMissing, match="not all parts"):
        door.complete(token, begun)
    anew = send(door.parts(token, begun))
    assert anew.upload != begun.upload
    door.complete(token, anew)
    assert world.stored() == content
    assert world.unfinished() == []


def test_a_part_that_fails_is_sent_again_and_no_other(world: World) -> None:
    left = [503, 500, 403, 404]

    def before(step: str) -> Response | None:
        return Response("no", left.pop()) if step == "part 2" and left else None

    world.relay.before = before
    assert world.attempt.run("follow") == 0
    assert left == []
    assert world.relay.parts() == ["1", "2", "3"]
    assert world.results() == {NAME: (len(CONTENT), sha256(CONTENT))}
    assert world.stored() == CONTENT


def test_a_part_that_was_taken_and_lost_is_sent_again(world: World) -> None:
    left = ["part 2", "part 2"]

    def before(step: str) -> Response | None:
        return Response("") if step in left and not left.remove(step) else None  # type: ignore[func-returns-value]

    world.relay.before = before
    assert world.attempt.run("follow") == 0, world.attempt.said("stage-out")
    assert left == []
    assert world.relay.parts() == ["1", "3", "2"]
    assert world.stored() == CONTENT


@on_each_server
@pytest.mark.parametrize("ends", [1, 3])
def test_an_upload_that_ends_before_it_is_complete_is_begun_again(world: World, ends: int) -> None:
    """As often as that happens by chance."""
    ended: list[str] = []

    def end_first() -> None:
        if request.path.endswith("/complete") and len(ended) < ends:
            ended.append(request.path)
            world.server.objects.delete(KEY)

    world.server.app.before_request(end_first)
    assert (world.attempt.run("follow") == 0) == (ends == 1)
    assert len(ended) == ends
    assert world.relay.parts() == ["1", "2", "3"] * min(ends + 1, 3)
    if ends == 1:
        assert world.stored() == CONTENT
    else:
        assert "has ended" in str(world.attempt.said("stage-out"))


def test_a_store_that_keeps_no_part_is_given_up(world: World, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "b", world.port, token=world.server.token, patience_seconds=1)
    (attempt.outputs / "large.fits").write_bytes(CONTENT)
    attempt.end()
    taken: list[str] = []

    def before(step: str) -> Response | None:
        if not step.startswith("part") or len(taken) == 100:
            return None
        taken.append(step)
        return Response("")

    world.relay.before = before
    assert attempt.run("follow") != 0
    assert "does not have the parts that it took for 1 s" in str(attempt.said("stage-out"))
    assert taken[:6] == ["part 1", "part 2", "part 3"] * 2


@on_each_server
def test_an_upload_that_ended_by_itself_is_begun_again(world: World) -> None:
    """As by a bucket's own rule."""
    world.kill_at("part 3")
    world.server.objects.delete(KEY)
    assert world.unfinished() == []
    assert world.attempt.run("follow") == 0
    assert world.stored() == CONTENT
    assert world.results() == {NAME: (len(CONTENT), sha256(CONTENT))}


@on_each_server
@pytest.mark.parametrize("who", ["server", "agent", "killed agent"])
def test_completed_and_the_reply_lost(world: World, who: str) -> None:
    replies: list[str] = []

    def lost(step: str) -> Response | None:
        if step != "complete" or replies:
            return None
        replies.append(step)
        return Response("lost", 502)

    def lost_to_the_agent(response: Response) -> Response:
        if not request.path.endswith("/complete") or replies:
            return response
        replies.append("complete")
        return Response("lost", 502)

    if who == "server":
        world.relay.after = lost
    elif who == "agent":
        world.server.app.after_request(lost_to_the_agent)
    else:
        came, release = threading.Event(), threading.Event()

        def hold(step: str) -> Response | None:
            if step == "complete":
                replies.append(step)
                came.set()
                release.wait(PATIENCE)
            return None

        world.relay.after = hold
        agent = world.attempt.start("follow")
        assert came.wait(PATIENCE)
        kill(agent)
        release.set()
        world.relay.after = lambda _: None
    assert world.attempt.run("follow") == 0, world.attempt.said("stage-out")
    assert replies
    assert world.relay.parts() == ["1", "2", "3"]
    assert world.stored() == CONTENT
    assert world.results() == {NAME: (len(CONTENT), sha256(CONTENT))}
    assert world.unfinished() == []


def test_a_quota_holds_for_parts(world: World) -> None:
    world.server.limits = AttemptLimits(output_bytes=10 * MIB)
    with pytest.raises(TooLarge, match="more than its"):
        world.server.door.parts(world.server.token, WantedParts(NAME, len(CONTENT)))
    assert world.attempt.run("follow") != 0
    assert "would store more than its" in str(world.attempt.said("stage-out"))
    assert world.relay.parts() == []
    assert "begin" not in world.relay.steps
    with pytest.raises(TooLarge, match="is more than"):
        world.server.door.parts(world.server.token, WantedParts(NAME, 1024 * MIB + 1))


def test_a_fenced_attempt_gets_no_more_links_and_completes_nothing(world: World) -> None:
    world.kill_at("part 3")
    upload = world.server.door.parts(world.server.token, WantedParts(NAME, len(CONTENT))).upload
    world.server.changes.apply(JOB, AbortRequested())
    world.server.changes.apply(JOB, Gone(1, (), None))
    asked = len(world.relay.steps)
    for call in (world.server.door.parts, world.server.door.complete):
        with pytest.raises(Forbidden, match="no business here"):
            call(world.server.token, WantedParts(NAME, len(CONTENT), upload))
    assert world.attempt.run("follow") == FENCED
    assert len(world.relay.steps) == asked
    assert list(world.server.objects.list("")) == [world.server.objects.head(parameter_key(JOB, TABLE))]


def test_deletion_leaves_no_unfinished_upload(world: World) -> None:
    world.kill_at("part 3")
    assert world.unfinished() == [f"of/ours/{KEY}"]
    world.server.objects.delete(world.server.job.prefix)
    assert world.unfinished() == []


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented")])
def test_objects_go_where_uploads_cannot_be_listed(world: World, status: int, code: str) -> None:
    assert world.attempt.run("follow") == 0
    objects, prefix = world.server.objects, world.server.job.prefix
    assert list(objects.list(prefix))

    def before(_: str) -> Response | None:
        listing = request.method == "GET" and "uploads" in request.args
        return Response(f"<Error><Code>{code}</Code></Error>", status) if listing else None

    world.relay.before = before
    if status == 403:
        with pytest.raises(StorageUnavailable, match="does not permit"):
            objects.delete(prefix)
    else:  # a store that has none
        objects.delete(prefix)
    assert list(objects.list(prefix)) == []


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("manifest.json", len(CONTENT)),
        ("results/../x", len(CONTENT)),
        ("parameters/table", len(CONTENT)),
        (NAME, PART),
        (NAME, -1),
    ],
)
def test_what_goes_not_in_parts(world: World, name: str, size: int) -> None:
    for call in (world.server.door.parts, world.server.door.complete):
        with pytest.raises(BadRequest):
            call(world.server.token, WantedParts(name, size))
    assert "begin" not in world.relay.steps


def test_an_object_stays_what_it_is(world: World) -> None:
    door, token = world.server.door, world.server.token
    begun = door.parts(token, WantedParts(NAME, len(CONTENT)))
    with pytest.raises(PartsMissing, match="not all parts"):
        door.complete(token, WantedParts(NAME, len(CONTENT), begun.upload))
    world.server.objects.put(KEY, CONTENT)
    with pytest.raises(Conflict, match="and stays"):
        door.parts(token, WantedParts(NAME, len(CONTENT)))
    with pytest.raises(Conflict, match="and stays"):
        door.complete(token, WantedParts(NAME, len(CONTENT) - 1, "none"))


def test_an_agent_that_knows_no_parts_gets_one_link(world: World) -> None:
    door, token = world.server.door, world.server.token
    (old,) = door.links(token, [Wanted("PUT", NAME, len(CONTENT))])
    assert old.url
    assert not old.parts
    (new,) = door.links(token, [Wanted("PUT", NAME, len(CONTENT), parts=True)])
    assert (new.url, new.parts) == ("", True)


def test_memory_is_bounded(world: World) -> None:
    """200 MiB go through an agent of less than 70."""
    with world.file.open("wb") as file:
        file.truncate(200 * MIB)
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    agent = [sys.executable, "-m", "runners.agent", "follow", str(world.attempt.top)]
    run = subprocess.run(
        [sys.executable, "-c", measure, *agent], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    code, mib = run.stdout.split()
    assert (code, int(mib) < 70) == ("0", True), run.stdout + run.stderr
    assert world.results() == {NAME: (200 * MIB, sha256(bytes(200 * MIB)))}
    assert len(world.relay.parts()) == 40
