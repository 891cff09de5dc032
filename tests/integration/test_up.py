"""`uws-server up`: starts everything, keeps it running, stops it, comes back with every job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.redis_servers import PROGRAMS, serving
from tests.up_process import ROLES, UP, UpProcess, children, lives, running_up
from tests.waiting import PATIENCE, until
from uws_server.redis_server import find
from uws_server.store.base import SCHEMA
from uws_server.store.redis import RedisStore

pytestmark = pytest.mark.covers("3:up")

HELLO = "print('hello')"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    with running_up(tmp_path_factory.mktemp("up") / "data") as running:
        yield running


def _run(up: UpProcess, code: str = HELLO) -> str:
    job = up.submit(code)
    until(lambda: up.phase(job) in {"COMPLETED", "ERROR", "ABORTED"}, f"the end of {job}")
    assert up.phase(job) == "COMPLETED"
    return job


def test_a_job_runs(up: UpProcess) -> None:
    assert "hello" in up.output(_run(up))


def test_the_ready_line_says_what_is_running(up: UpProcess) -> None:
    assert up.ready["pid"] == up.process.pid
    assert up.ready["data"] == str(up.data)
    assert str(up.ready["url"]).startswith("http://127.0.0.1:")
    assert str(up.ready["redis"]).startswith("unix://")
    assert "isolation by" in json.dumps(up.ready["isolation"])


def test_an_ipv6_address_will_do(tmp_path: Path) -> None:
    with running_up(tmp_path / "data", "--host", "::1") as up:
        assert str(up.ready["url"]).startswith("http://[::1]:")
        until(up.healthy, "health")
        assert up.end() == 0


def test_what_is_private_is_readable_by_the_owner_only(up: UpProcess) -> None:
    for name in (".", "secret", "redis", "run"):
        assert (up.data / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.covers("3:up-comes-back")
@pytest.mark.parametrize("role", ROLES)
def test_a_killed_process_is_started_again_and_work_goes_on(up: UpProcess, role: str) -> None:
    before = up.roles()[role]
    group = [before, *children(before)]
    os.kill(before, signal.SIGKILL)
    until(lambda: up.roles().get(role, before) != before, f"a new {role}")
    until(up.healthy, "health")
    assert not any(lives(pid) for pid in group)
    _run(up)


def test_a_killed_web_process_is_replaced_and_no_connection_refused(up: UpProcess) -> None:
    (victim, *others) = children(up.roles()["web"])
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(set(children(up.roles()["web"])) - {victim}) == len(others) + 1, "a new web process")
    until(up.healthy, "health")


def test_while_web_is_down_connections_wait(up: UpProcess) -> None:
    web = up.roles()["web"]
    group = [web, *children(web)]
    os.kill(web, signal.SIGKILL)
    until(lambda: not any(lives(pid) for pid in group), "the end of web")
    with urllib.request.urlopen(f"{up.url}/healthz", timeout=PATIENCE) as answer:
        assert answer.status == 200


def test_a_second_up_on_the_same_data_is_refused_in_a_sentence(up: UpProcess) -> None:
    done = subprocess.run(
        [*UP, "--data", str(up.data), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    expected = f"uws-server: another `uws-server up`, process {up.process.pid}, already uses {up.data}\n"
    assert done.stderr == expected


def test_a_port_that_is_taken_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = UpProcess(tmp_path / "data", "--port", str(port))
        assert up.wait() == 1
        refusal = f"uws-server: cannot listen on 127.0.0.1 port {port}: Address already in use"
        assert up.said() == f"{refusal}; --port names another\n"


def test_web_alone_refuses_a_port_that_is_taken_in_the_same_sentence(up: UpProcess) -> None:
    port = up.url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "uws_server.cli", "web", "--data", str(up.data), "--port", port],
        env={**os.environ, "UWS_REDIS__URL": str(up.ready["redis"])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    refusal = f"uws-server: cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert (done.returncode, done.stderr) == (1, f"{refusal}; --port names another\n")


def test_a_data_directory_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.touch()
    up = UpProcess(data)
    assert up.wait() == 1
    assert up.said() == (
        f"uws-server: the data directory {data} cannot be made: File exists; --data names another\n"
    )


def test_a_data_directory_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        command = [*UP, "--data", "/proc", "--port", "0"]
        done = subprocess.run(command, stderr=stream, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    refusal = "uws-server: the data directory /proc cannot be written: No such file or directory"
    assert log.read_text() == f"{refusal}; --data names another\n"


@pytest.mark.covers("3:config-unknown-key")
def test_an_unknown_key_refuses_the_start(tmp_path: Path) -> None:
    up = UpProcess(tmp_path / "data", environment={"UWS_WEB__WROKERS": "3"})
    assert up.wait() == 78
    assert "did you mean web.workers?" in up.said()
    assert "Traceback" not in up.said()


@pytest.mark.covers("3:config-unknown-key")
def test_a_wrong_template_refuses_the_start_once(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "stars.yaml").write_text("name: [stars\n")
    settings = {"UWS_TEMPLATES__DIRECTORIES": f'["{tmp_path}/templates"]', "UWS_WEB__WORKERS": "1"}
    up = UpProcess(tmp_path / "data", environment=settings)
    assert up.wait() == 78
    assert up.said().count("stars.yaml:2: expected") == 1
    assert up.said().splitlines()[-1] == "uws-server: web does not start; its lines above say why"


@pytest.fixture(params=PROGRAMS)
def forgetful_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "redis", request.param) as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("appendfsync", "everysec")
        yield url


@pytest.mark.covers("3:config-durable")
def test_a_store_that_is_not_durable_refuses_the_start(tmp_path: Path, forgetful_redis: str) -> None:
    up = UpProcess(tmp_path / "data", environment={"UWS_REDIS__URL": forgetful_redis})
    assert up.wait() == 78
    assert up.said().splitlines() == [
        "uws-server: appendfsync is everysec, not always: a power cut may lose accepted jobs",
        "uws-server: redis.durable: false permits that",
    ]


@pytest.mark.covers("3:config-durable")
@pytest.mark.parametrize("forgetful_redis", ["valkey"], indirect=True)
def test_a_store_that_is_not_durable_can_be_permitted(tmp_path: Path, forgetful_redis: str) -> None:
    permitted = {"UWS_REDIS__URL": forgetful_redis, "UWS_REDIS__DURABLE": "false"}
    with running_up(tmp_path / "data", environment=permitted) as up:
        until(up.healthy, "health")
        assert set(up.roles()) == set(ROLES) - {"redis"}


def test_a_redis_that_is_not_there_is_named(tmp_path: Path) -> None:
    up = UpProcess(tmp_path / "data", environment={"UWS_REDIS__URL": f"unix://{tmp_path}/none"})
    assert up.wait() == 75
    assert "Redis does not answer" in up.said()
    assert "Traceback" not in up.said()


def test_a_clean_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_up(tmp_path / "data", "--ready-file", str(tmp_path / "ready.json")) as up:
        assert json.loads((tmp_path / "ready.json").read_text()) == up.ready
        roles = up.roles()
        everything = [*roles.values(), *(pid for child in roles.values() for pid in children(child))]
        assert up.end(signal.SIGINT) == 0
    assert not any(lives(pid) for pid in everything)
    assert not (up.data / "redis" / "socket").exists()
    assert "killed" not in up.said()
    assert "Traceback" not in up.said()


@pytest.mark.covers("3:up-comes-back", "3:local-supervisor")
def test_killed_up_takes_its_children_along_and_comes_back_with_every_job(tmp_path: Path) -> None:
    wait = "import time\nprint('begun', flush=True)\ntime.sleep(6)\nprint('done')"
    with running_up(tmp_path / "data") as up:
        finished = _run(up)
        job = up.submit(wait)
        until(lambda: up.phase(job) == "EXECUTING", "EXECUTING")
        roles = up.roles()
        everything = [*roles.values(), *children(roles["web"])]
        supervisors = children(roles["start"])
        up.end(signal.SIGKILL)
        until(lambda: not any(lives(pid) for pid in everything), "the end of all children")
        assert supervisors
        assert all(lives(pid) for pid in supervisors)
    with running_up(tmp_path / "data") as again:
        assert again.phase(finished) == "COMPLETED"
        until(lambda: again.phase(job) == "COMPLETED", "the end of the job that ran meanwhile")
        assert again.output(job).split() == ["begun", "done"]


def test_a_second_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    with running_up(tmp_path / "data") as up:
        os.kill(up.roles()["redis"], signal.SIGSTOP)  # will not end politely
        roles = up.roles()
        up.process.send_signal(signal.SIGINT)
        until(lambda: "web" not in up.roles(), "the polite stop")
        assert up.end(signal.SIGINT) == 130
    assert not any(lives(pid) for pid in roles.values())


@pytest.mark.covers("3:cli-server")
def test_check_looks_at_a_running_server_without_disturbing_it(up: UpProcess) -> None:
    before = up.roles()
    done = subprocess.run(
        [sys.executable, "-m", "uws_server.cli", "check", "--data", str(up.data)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "uws-server up runs on this data directory" in done.stdout
    assert "redis: What it acknowledges is on disk" in done.stdout
    assert done.returncode in {0, 2}
    assert up.roles() == before
    until(up.healthy, "health")


@pytest.mark.covers("3:redis-and-valkey", "3:up-redis")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_job_runs_on_either_server(tmp_path: Path, name: str) -> None:
    program = find(PROGRAMS[name]) if PROGRAMS[name] else find(path=os.devnull)
    with running_up(tmp_path / "data", environment={"UWS_REDIS__PROGRAM": str(program)}) as up:
        _run(up)
        assert Path(f"/proc/{up.roles()['redis']}/exe").resolve() == program.resolve()


@pytest.mark.covers("4:schema-version", "4:start-data")
@pytest.mark.parametrize("trouble", ["store of a later version", "objects that cannot be written"])
def test_what_web_cannot_work_with_is_said_in_a_sentence(tmp_path: Path, trouble: str) -> None:
    data, words = tmp_path / "data", "cannot be made or written"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UWS_")}
    if trouble == "store of a later version":
        with serving(data, "redis") as url:
            store = RedisStore(url)
            store.schema(SCHEMA + 1)
            store.close()
        words = f"the job store is of version {SCHEMA + 1}"
    else:
        clean["UWS_OBJECTS__URL"] = "file:///dev/null/objects"
    command = [*UP, "--data", str(data), "--port", "0"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 78
    assert words in done.stderr
    assert "Traceback" not in done.stderr
