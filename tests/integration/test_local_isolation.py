"""What user code of the local site cannot see, reach or do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from runners.base import Cause, State
from runners.local.isolation import IsolationError, LocalSettings, Mode, probe
from runners.local.runner import LocalRunner
from runners.local.view import view
from tests.local_site import LocalSite, local_site, modes
from tests.waiting import until
from uws_server.domain.runspec import RunSpec

ISOLATING: list[Mode] = [mode for mode in modes() if mode != "none"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=ISOLATING)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalSite]:
    with local_site(tmp_path / "data" / "site", request.param) as site:
        yield site


def ask(site: LocalSite, code: str, *arguments: str) -> object:
    """What Python code, run as a job, prints as JSON from its variable `told`."""
    spec = site.start("{python}", "-c", f"import json, os, sys\n{code}\nprint(json.dumps(told))", *arguments)
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED, site.log(spec, "stderr")
    return json.loads(site.log(spec))


@pytest.mark.covers("3:local-isolation")
def test_nothing_of_ours_can_be_read(site: LocalSite) -> None:
    other = site.start("/bin/sleep", "600")
    site.reached(other, State.RUNNING)
    redis = site.directory.parent / "redis.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(redis))
        paths = [
            str(redis),
            str(site.directory.parent),
            str(site.attempt(other)),
            str(site.attempt(other) / "agent.json"),
            str(site.directory / "watchers"),
            "/etc/shadow",
            "/root/.ssh",
            "/root/.bashrc",
            "/home",
            "/var",
            "/run",
            "/sys/fs/cgroup",
            str(ROOT / ".git"),
            str(ROOT / "setup.cfg"),
        ]
        code = """
told = {}
for path in sys.argv[1:]:
    try:
        told[path] = os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        told[path] = None
here = os.path.dirname(os.getcwd())
told["own"] = sorted(os.listdir(os.path.dirname(here))), sorted(os.listdir(here))
"""
        told = ask(site, code, *paths)
    assert isinstance(told, dict)
    own = told.pop("own")
    told[str(site.directory.parent)] = None if told[str(site.directory.parent)] == ["site"] else "more"
    assert {path: what for path, what in told.items() if what is not None} == {}
    assert own == [["work"], ["inputs", "outputs", "tmp", "uws"]]


@pytest.mark.covers("3:local-isolation")
def test_nobody_else_can_be_seen_or_killed(site: LocalSite) -> None:
    other = site.start("/bin/sleep", "600")
    site.reached(other, State.RUNNING)
    supervisor = site.supervisor(other)
    code = """
told = []
for pid in sys.argv[1:]:
    try:
        os.kill(int(pid), 9)
        told.append("killed")
    except OSError as error:
        told.append(type(error).__name__)
told.append(len([name for name in os.listdir("/proc") if name.isdecimal()]))
"""
    told = ask(site, code, str(supervisor), str(os.getpid()))
    assert told == ["ProcessLookupError", "ProcessLookupError", 2]
    assert site.reached(other, State.RUNNING).outcome is None


@pytest.mark.covers("3:local-isolation")
def test_no_capability_and_no_way_to_one(site: LocalSite) -> None:
    code = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
told = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
told.append(int(status["NoNewPrivs"]))
"""
    assert ask(site, code) == [0, 0, 0, 0, 0, 1]


@pytest.mark.covers("3:local-isolation")
def test_only_its_own_places_can_be_written(site: LocalSite) -> None:
    code = """
import subprocess
inputs = os.environ["UWS_INPUTS"]
told = {}
for path in ("/x", "/usr/x", "/etc/x", "/opt/x", inputs + "/x", os.path.dirname(json.__file__) + "/x",
             "/dev/shm/x", "/tmp/x", os.environ["TMPDIR"] + "/x", "x"):
    try:
        open(path, "w").close()
        told[path] = True
    except OSError:
        pass
mounting = subprocess.run(["mount", "-t", "tmpfs", "x", "/usr"], capture_output=True)
told = [[path.replace(os.environ["TMPDIR"], "TMPDIR") for path in told], mounting.returncode != 0]
"""
    assert ask(site, code) == [["/dev/shm/x", "/tmp/x", "TMPDIR/x", "x"], True]


@pytest.mark.covers("3:local-isolation", "3:agent-hostile-outputs")
def test_no_link_can_take_the_place_of_a_directory_we_read(site: LocalSite) -> None:
    code = """
work = os.path.dirname(os.getcwd())
told = []
for name in ("outputs", "uws", "tmp", "inputs"):
    for act in (os.rename, lambda old, new: os.symlink("/etc", new)):
        try:
            act(f"{work}/{name}", f"{work}/{name}-other")
            told.append(name)
        except OSError:
            pass
"""
    assert ask(site, code) == []


@pytest.mark.covers("3:local-isolation")
def test_a_job_can_use_our_packages_and_a_terminal(site: LocalSite) -> None:
    code = """
import multiprocessing, pty, runners.base
multiprocessing.Semaphore()
told = [runners.base.State("lost").name, os.isatty(pty.openpty()[1]), os.cpu_count() > 0]
"""
    assert ask(site, code) == ["LOST", True, True]


@pytest.mark.covers("3:local-isolation")
@pytest.mark.parametrize("mode", ISOLATING)
def test_without_network_there_is_only_loopback(tmp_path: Path, mode: Mode) -> None:
    code = """
import socket
told = [[name for _, name in socket.if_nameindex() if name != "lo" and "tunl" not in name]]
with socket.create_server(("127.0.0.1", 0)) as server:
    told.append(socket.create_connection(server.getsockname()[:2]).getpeername()[0])
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)
    told.append("reached")
except OSError as error:
    told.append(type(error).__name__)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with local_site(tmp_path / "none", mode, network="none") as site:
            assert ask(site, code, port) == [[], "127.0.0.1", "ConnectionRefusedError"]
        with local_site(tmp_path / "host", mode, network="host") as site:
            told = ask(site, code, port)
            assert isinstance(told, list)
            assert told[1:] == ["127.0.0.1", "reached"]


@pytest.mark.covers("3:local-isolation")
@pytest.mark.parametrize("mode", ISOLATING)
def test_further_paths_can_be_shown_and_hidden(tmp_path: Path, mode: Mode) -> None:
    archive = tmp_path / "archive"
    (archive / "private").mkdir(parents=True)
    (archive / "data").write_text("data")
    (archive / "private" / "key").write_text("key")
    (archive / "secret").write_text("secret")
    hidden = (archive / "private", archive / "secret")
    code = """
told = [open(sys.argv[1] + "/data").read(), os.listdir(sys.argv[1] + "/private")]
try:
    told.append(open(sys.argv[1] + "/secret").read())
except OSError:
    told.append("")
try:
    open(sys.argv[1] + "/data", "a")
except OSError as error:
    told.append(error.errno)
"""
    # The site beneath a visible path is hidden too, but for the job's own directory.
    with local_site(archive / "site", mode, read_only=(archive,), hidden=hidden) as site:
        told = ask(site, code, str(archive))
        assert isinstance(told, list)
        assert told[:3] == ["data", [], ""]
        assert told[3] in (13, 30)  # EACCES, EROFS
        assert ask(site, "told = os.listdir(sys.argv[1])", str(site.directory)) == ["attempts"]


@pytest.mark.covers("3:local-isolation", "3:local-limits")
@pytest.mark.parametrize("mode", ISOLATING)
def test_living_attempts_share_no_user(tmp_path: Path, mode: Mode) -> None:
    with local_site(tmp_path / "site", mode) as site:
        code = "id -u; id -g; id -G; touch ready; while [ ! -e go ]; do sleep 0.05; done"
        specs = [site.start("/bin/sh", "-c", code) for _ in range(3)]
        for spec in specs:
            site.reached(spec, State.RUNNING)
        users = [_first_line(site, spec) for spec in specs]
        assert len(set(users)) == (3 if os.getuid() == 0 else 1)
        if os.getuid() == 0:
            assert all(int(user) >= site.settings.uid_first for user in users)


def _first_line(site: LocalSite, spec: RunSpec) -> str:
    until(lambda: len(site.log(spec).splitlines()) == 3, "the ids")
    assert len(set(site.log(spec).split())) == 1
    return site.log(spec).split()[0]


@pytest.mark.covers("3:local-limits")
@pytest.mark.parametrize("mode", ISOLATING)
def test_a_killed_child_counts_as_out_of_memory(tmp_path: Path, mode: Mode) -> None:
    code = (
        'import subprocess, sys, time; subprocess.run([sys.executable, "-c", sys.argv[1]]); print("survived")'
    )
    eats = "import time; a = b'x' * (350 * 2**20); time.sleep(600)"
    with local_site(tmp_path / "site", mode) as site:
        spec = site.start("{python}", "-c", code, eats)
        outcome = site.ended(spec).outcome
        assert outcome is not None
        assert outcome.cause is Cause.OUT_OF_MEMORY
        if os.getuid() == 0:  # the kernel killed the child alone
            assert (site.log(spec), outcome.exit_code) == ("survived\n", 0)


@pytest.mark.covers("3:local-isolation")
def test_the_probe_says_what_holds_and_what_does_not() -> None:
    networks: tuple[Literal["host", "none"], ...] = ("host", "none")
    for mode in modes():
        for network in networks:
            isolation = probe(LocalSettings(isolation=mode, network=network))
            assert isolation.mode == mode
            assert isolation.sealed == (mode != "none" and network == "none")
            assert isolation.sealed != ("Credentials are in reach of jobs" in " ".join(isolation.lacks))
            assert all(sentence.endswith((".", ")")) for sentence in isolation.holds + isolation.lacks)
    said = " ".join(probe(LocalSettings(isolation="none")).lacks)
    assert "Credentials are in reach of jobs" in said
    assert probe(LocalSettings()).mode == modes()[0]
    held = [probe(LocalSettings(network=network)).holds for network in networks]
    assert ["Jobs have no network." in sentences for sentences in held] == [False, modes()[0] != "none"]


@pytest.mark.covers("3:local-isolation")
def test_what_was_asked_for_and_does_not_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = LocalSettings(isolation="bubblewrap", cgroup="uws-not-probed")
    with pytest.raises(IsolationError, match="bwrap is not installed"):
        LocalRunner(tmp_path / "site", settings)


@pytest.mark.covers("3:local-isolation")
def test_the_view_shows_no_home_of_anybody() -> None:
    shown = [path for action, path, *_ in view((), ()) if action == "bind"]
    for path in ("/", "/home", "/root", "/var", "/run", "/proc", "/sys", "/srv", str(Path.home()), str(ROOT)):
        assert path not in shown
    assert not [path for path in shown if path.startswith(("/home", "/root")) and len(Path(path).parts) < 4]


@pytest.mark.covers("3:local-isolation", "3:local-abort-tree")
def test_without_root_the_same_holds() -> None:
    """Run the suites again as a user without rights, who can reach the interpreter."""
    if os.getuid() != 0:
        assert "namespaces" not in modes()  # all that stands here runs without root already
        return
    home = Path.home()
    needed = {Path(os.path.realpath(sys.base_prefix)), Path(sys.prefix), Path(ROOT).resolve()}
    inside = [path for path in needed if path.is_relative_to(home)]
    # Those that lie below another one come with it.
    shown = [
        path for path in inside if not any(path != other and path.is_relative_to(other) for other in inside)
    ]
    script = f'cd "{ROOT}" && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
    if shown:  # what is needed, in an otherwise empty home
        there = [(f"/tmp/.uws-shown-{number}", path) for number, path in enumerate(shown)]
        steps = [f'mkdir -p {place} && mount --bind "{path}" {place}' for place, path in there]
        steps.append(f'mount -t tmpfs -o mode=755 tmpfs "{home}"')
        steps += [f'mkdir -p "{path}" && mount --move {place} "{path}"' for place, path in there]
        script = " && ".join((*steps, script))
    command = [
        "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
        "env", "PYTHONDONTWRITEBYTECODE=1", "HOME=/nonexistent",
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-x",
        "tests/contract/test_runner.py", "tests/integration/test_local_isolation.py",
        "tests/integration/test_local_system_calls.py",
        "tests/integration/test_local.py::test_a_fork_bomb_is_contained",
        "tests/integration/test_local.py::test_too_much_memory",
        "tests/integration/test_local.py::test_abort_ends_the_whole_tree",
        "tests/integration/test_local.py::test_forget_removes_whatever_was_made",
        "-k", "not without_root and not kubernetes",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
