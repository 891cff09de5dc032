"""The commands of `uws-server`, as far as nothing is started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.waiting import PATIENCE, until
from uws_server import __version__
from uws_server.store.base import SCHEMA
from uws_server.store.redis import RedisStore

TROUBLES = ("no directory", *(("not to be written", "full") if os.geteuid() == 0 else ()))
COMMANDS = ("up", "web", "worker", "watch", "reconcile", "check", "templates")


def _uws_server(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uws_server.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.covers("3:cli-server")
def test_every_command_is_listed_and_explains_itself() -> None:
    listed = _uws_server("--help").stdout
    assert "Exit codes:" in listed
    for command in COMMANDS:
        assert f"  {command} " in listed
        assert _uws_server(command, "--help").returncode == 0


@pytest.mark.covers("3:cli-fast-help")
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom uws_server.cli import cli\n"
        "CliRunner().invoke(cli, ['--help'])\n"
        "print([n for n in ('pydantic', 'redis', 'rq', 'flask', 'astropy', 'yaml') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.covers("3:config-unknown-key")
@pytest.mark.parametrize(
    "words", [("up",), ("web",), ("worker", "--site", "local"), ("watch", "--site", "local"), ("check",)]
)
def test_every_command_refuses_an_unknown_key(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "uws.yaml"
    file.write_text("web:\n  prot: 1\n")
    done = _uws_server(*words, "--config", str(file))
    assert done.returncode == 78
    expected = f"uws-server: unknown setting web.prot (in {file}, line 2); did you mean web.port?\n"
    assert done.stderr == expected
    assert done.stdout == ""


def test_without_a_redis_the_single_commands_say_so(tmp_path: Path) -> None:
    done = _uws_server("web", "--data", str(tmp_path))
    assert done.returncode == 78
    assert "only `uws-server up` brings a Redis of its own" in done.stderr


@pytest.mark.covers("3:cli-server")
def test_check_says_in_sentences_what_holds_and_removes_what_it_wrote(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = _uws_server("check", "--data", str(data))
    assert done.returncode in {0, 2}
    lines = done.stdout.splitlines()
    assert any("redis: What it acknowledges is on disk" in line for line in lines)
    assert any("An object was written, read and removed." in line for line in lines)
    assert any("isolation at local" in line for line in lines)
    assert any("templates: " in line and "all of them right" in line for line in lines)
    assert (done.returncode == 2) == any(line.startswith("weak") for line in lines)
    assert any(f"data: {data} holds no data yet" in line for line in lines)
    assert any(f"objects at {data.as_uri()}/objects: " in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.covers("4:check")
def test_check_asks_the_cluster_and_says_all_by_json_too(tmp_path: Path) -> None:
    file = tmp_path / "uws.yaml"
    cluster = {
        "kubeconfig": str(tmp_path / "none"),
        "agent_image": "a:1",
        "agent_url": "http://192.0.2.1:bad",
    }
    sites = {"far": {"runner": "kubernetes", "kubernetes": cluster}}
    file.write_text(json.dumps({"data": str(tmp_path / "data"), "sites": sites}))
    said = _uws_server("check", "--config", str(file))
    assert said.returncode == 1
    assert "broken  cluster of far: sites.far.kubernetes: no way into the cluster: " in said.stdout
    done = _uws_server("check", "--json", "--config", str(file))
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"good", "broken"} <= {one["grade"] for one in found} <= {"good", "weak", "broken"}
    (agents,) = [one for one in found if one["subject"] == "agents at far"]
    assert agents["sentence"].startswith("http://192.0.2.1:bad is no address at a port: mend sites.far.")
    assert len(found) == len(said.stdout.splitlines())


@pytest.mark.covers("4:check")
@pytest.mark.parametrize(
    ("in_pod", "there", "grade", "said"),
    [
        (False, False, "broken", "the secret cannot be read: "),
        (True, False, "weak", "not looked at: it is not in this pod"),
        (True, True, "broken", "secret"),
    ],
)
def test_check_misses_the_secret_where_it_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_pod: bool, there: bool, grade: str, said: str
) -> None:
    secret = tmp_path / "secret"
    if there:
        secret.write_text("short")
    if in_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    file = tmp_path / "uws.yaml"
    objects = {"url": "s3://results", "endpoint": "http://127.0.0.1:1"}
    file.write_text(
        json.dumps({"data": str(tmp_path / "data"), "secret_file": str(secret), "objects": objects})
    )
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "none")
    done = _uws_server("check", "--json", "--config", str(file))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    (of_secret,) = [one for one in found if "the secret" in one["sentence"] or one["subject"] == "secret"]
    assert (of_secret["subject"], of_secret["grade"]) == ("secret", grade)
    assert said in of_secret["sentence"]
    assert any(one["subject"] == "objects at s3://results" for one in found)


@pytest.mark.covers("3:cli-server")
def test_check_leaves_directories_of_the_operator_as_they_are(tmp_path: Path) -> None:
    data, objects = tmp_path / "data", tmp_path / "objects"
    for directory in (data, objects):
        directory.mkdir()
        (directory / "note").write_text("mine")
    file = tmp_path / "uws.yaml"
    file.write_text(f"data: {data}\nobjects: {{url: '{objects.as_uri()}'}}\n")
    done = _uws_server("check", "--config", str(file))
    assert done.returncode in {0, 2}
    assert f"objects at {objects.as_uri()}: An object was written" in done.stdout
    assert sorted(tmp_path.rglob("*")) == sorted([data, data / "note", objects, objects / "note", file])


@pytest.mark.covers("3:cli-server")
@pytest.mark.parametrize(
    ("data", "words"),
    [("{file}", "Not a directory"), ("{file}/below", "Not a directory"), ("/proc/none", "No such file")],
)
def test_check_says_where_no_data_can_lie(tmp_path: Path, data: str, words: str) -> None:
    file = tmp_path / "file"
    file.touch()
    place = data.format(file=file)
    done = _uws_server("check", "--data", place)
    assert done.returncode == 1
    assert f"broken  data: {place} cannot be made or written: {words}" in done.stdout
    assert done.stderr == ""


@pytest.mark.covers("3:cli-server")
def test_check_tells_what_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "uws.yaml"
    file.write_text(
        f"redis: {{url: 'unix://{tmp_path}/none'}}\nobjects: {{url: 'dragon://x'}}\ndata: {tmp_path}\n"
    )
    done = _uws_server("check", "--config", str(file))
    assert done.returncode == 1
    assert "broken  redis: it does not answer" in done.stdout
    assert "'dragon://x' names no object store" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.covers("3:templates-check", "3:cli-server")
def test_templates_are_checked_and_listed(tmp_path: Path) -> None:
    assert _uws_server("templates", "check").stdout == "All templates are right.\n"
    assert "lightcurve" in _uws_server("templates", "list").stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ntitel: x\n")
    done = _uws_server("templates", "check", str(tmp_path))
    assert done.returncode == 1
    assert f"{bad}:2: " in done.stdout


@pytest.mark.covers("3:templates-check")
def test_a_check_of_no_template_is_no_success(tmp_path: Path) -> None:
    empty = _uws_server("templates", "check", str(tmp_path))
    assert (empty.returncode, empty.stdout) == (1, "")
    assert empty.stderr == (
        f"uws-server: {tmp_path} holds no template: none of its files ends in .yaml or .yml\n"
    )
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    file = _uws_server("templates", "check", str(tmp_path / "mine.yaml"))
    assert file.returncode == 2
    assert file.stderr.endswith(f"is a file; name the directory that holds it: {tmp_path}\n")


@pytest.mark.parametrize(
    "words", [("up",), ("web",), ("worker", "--site", "local"), ("watch", "--site", "local"), ("reconcile",)]
)
def test_a_redis_that_does_not_answer_is_said_once_with_where_to_look(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "uws.yaml"
    file.write_text(f"redis: {{url: 'unix://{tmp_path}/none'}}\n")
    done = _uws_server(*words, "--config", str(file), "--data", str(tmp_path / "data"))
    assert done.returncode == 75
    assert done.stderr.startswith("uws-server: Redis does not answer: Error 2 connecting to")
    assert done.stderr.endswith(". Does it run where redis.url says?\n")
    assert done.stderr.count("\n") == 1


def test_a_ready_file_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "none" / "ready.json"
    done = _uws_server("up", "--data", str(tmp_path / "data"), "--ready-file", str(file))
    assert done.returncode == 1
    assert done.stderr == (
        f"uws-server: --ready-file {file} cannot be written: {file.parent} is no directory to write in\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.covers("4:schema-version")
@pytest.mark.parametrize("words", [("web",), ("worker", "--site", "local"), ("reconcile",)])
def test_a_store_of_a_later_version_is_refused_and_left_as_it_is(
    tmp_path: Path, redis_url: str, words: tuple[str, ...]
) -> None:
    store = RedisStore(redis_url)
    store.schema(SCHEMA + 1)
    file = tmp_path / "uws.yaml"
    file.write_text(f"data: {tmp_path}/data\nredis: {{url: '{redis_url}'}}\n")
    done = _uws_server(*words, "--config", str(file))
    assert done.returncode == 78
    assert done.stderr == (
        f"uws-server: the job store is of version {SCHEMA + 1}, and uws-server {__version__} knows versions "
        f"up to {SCHEMA}: run the version of uws-server that wrote it, or a later one; nothing was changed\n"
    )
    assert store.client.keys() == ["uws:schema"]
    store.close()


@pytest.mark.covers("4:start-data")
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(
    "words", [("web",), ("worker", "--site", "local"), ("watch", "--site", "local"), ("reconcile",)]
)
def test_a_data_directory_that_cannot_be_written_is_said_in_one_sentence(
    tmp_path: Path, redis_servers: Callable[[str], str], words: tuple[str, ...], trouble: str
) -> None:
    place = tmp_path / "place"
    with troubled(place, trouble):
        file = tmp_path / "uws.yaml"
        file.write_text(f"data: {place}/data\nredis: {{url: '{redis_servers('redis')}'}}\n")
        done = _uws_server(*words, "--config", str(file))
    said = done.stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"uws-server: {place}")
    assert " cannot be made or written: " in said[0]
    assert done.returncode == (75 if trouble == "full" else 78)


@contextmanager
def troubled(place: Path, trouble: str) -> Iterator[None]:
    """A place in which nothing can be made. Root, who has file systems, is kept out by those alone."""
    if trouble == "no directory":
        place.write_text("a file\n")
        yield
        return
    place.mkdir()
    full = "size=4k,nr_inodes=1" if trouble == "full" else "ro"
    subprocess.run(["mount", "-t", "tmpfs", "-o", full, "uws-test", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.covers("4:deploy-credentials")
@pytest.mark.parametrize(
    "words", [("worker", "--site", "local", "--queue", "stop"), ("watch", "--site", "local"), ("reconcile",)]
)
def test_who_signs_nothing_runs_without_the_secret(
    tmp_path: Path, redis_servers: Callable[[str], str], words: tuple[str, ...]
) -> None:
    redis_url = redis_servers("redis")
    file = tmp_path / "uws.yaml"
    file.write_text(
        f"data: {tmp_path}/data\nsecret_file: {tmp_path}/none\nredis: {{url: '{redis_url}'}}\n"
        "log: {level: warning}\n"
    )
    command = [sys.executable, "-m", "uws_server.cli", *words, "--config", str(file)]
    with (
        RedisStore(redis_url).client as client,
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            until(lambda: at_work(client), "its work")
        finally:
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")


def at_work(client: redis.Redis) -> bool:
    """Whether a process has taken its lease, or waits for its queue."""
    workers = [client.hget(str(key), "state") for key in client.keys("rq:worker:*")]
    return bool(client.keys("uws:lease:*")) or "idle" in workers


@pytest.mark.covers("4:deploy-credentials")
@pytest.mark.parametrize("words", [("web",), ("worker", "--site", "local")])
def test_who_signs_does_not_start_without_the_secret(
    tmp_path: Path, redis_servers: Callable[[str], str], words: tuple[str, ...]
) -> None:
    file = tmp_path / "uws.yaml"
    file.write_text(
        f"data: {tmp_path}/data\nsecret_file: {tmp_path}/none\nredis: {{url: '{redis_servers('redis')}'}}\n"
    )
    done = _uws_server(*words, "--config", str(file))
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "the secret cannot be read" in done.stderr


@pytest.mark.covers("4:probes")
@pytest.mark.parametrize("words", [("web", "--port", "0"), ("reconcile",)])
def test_an_operators_port_that_is_taken_is_said_in_one_sentence(
    tmp_path: Path, redis_servers: Callable[[str], str], words: tuple[str, ...]
) -> None:
    file = tmp_path / "uws.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        redis_url = redis_servers("redis")
        file.write_text(f"data: {tmp_path}/data\nredis: {{url: '{redis_url}'}}\noperator: {{port: {port}}}\n")
        done = _uws_server(*words, "--config", str(file))
    sentence = f"cannot listen on 127.0.0.1 port {port}: Address already in use; operator.port names another"
    assert (done.returncode, done.stderr) == (1, f"uws-server: {sentence}\n")
