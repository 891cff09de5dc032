"""The wrapper as process 1: exit codes, logs, signals, and what is left behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.up_process import command_line
from tests.waiting import PATIENCE, until
from tests.wrapper_program import Wrapped, namespace

pytestmark = pytest.mark.covers("4:wrapper")

MIB = 1024**2


def inner(process: subprocess.Popen[bytes]) -> int:
    """The wrapper's process id, as it is outside of its namespace."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: children.read_text().split(), "the wrapper")
    return int(children.read_text().split()[0])


def sh(text: str) -> tuple[str, str, str]:
    return "sh", "-c", text


@pytest.mark.parametrize("code", [0, 3, 7, 126, 127, 130, 255])
def test_the_exit_code_is_the_programs(wrapped: Wrapped, code: int) -> None:
    assert wrapped.run(*sh(f"exit {code}")) == code
    assert wrapped.exit()[0::2] == [str(code), "ended"]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_ended_by_a_signal_counts_as_shells_do(wrapped: Wrapped, sign: signal.Signals) -> None:
    assert wrapped.run(*sh(f"ulimit -c 0; kill -{sign.value} $$")) == 128 + sign
    assert wrapped.exit()[0] == str(128 + sign)


def test_output_and_error_output_are_apart(wrapped: Wrapped) -> None:
    assert wrapped.run(*sh("echo out; echo err >&2; printf 'no newline'")) == 0
    assert (wrapped.stdout(), wrapped.stderr()) == (b"out\nno newline", b"err\n")


def test_a_hundred_megabytes_of_any_bytes_are_kept_as_they_are(wrapped: Wrapped, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(100 * MIB)
    (tmp_path / "bytes").write_bytes(content)
    assert wrapped.run("cat", str(tmp_path / "bytes"), log_bytes=200 * MIB) == 0
    assert wrapped.stdout() == content


def test_a_capped_log_keeps_its_head_and_its_last_mebibyte(wrapped: Wrapped) -> None:
    assert wrapped.run(*sh("seq 10000000"), log_bytes=8 * MIB) == 0
    kept = wrapped.stdout()
    whole = sum(len(str(number)) + 1 for number in range(1, 10_000_001))
    head, mark, tail = kept.partition(b"\n[... ")
    dropped, _, tail = tail.partition(b" bytes of output left out ...]\n")
    assert mark
    assert kept.startswith(b"1\n2\n3\n")
    assert kept.endswith(b"9999999\n10000000\n")
    assert len(tail) == MIB
    assert len(head) + int(dropped) + len(tail) == whole
    assert len(kept) <= 8 * MIB


def test_a_log_of_one_endless_line_never_blocks_the_program(wrapped: Wrapped) -> None:
    assert wrapped.run(*sh("head -c 300000000 /dev/zero; echo done >&2"), log_bytes=MIB) == 0
    assert wrapped.stderr() == b"done\n"
    assert len(wrapped.stdout()) <= MIB


def test_a_full_disk_costs_output_and_not_the_program(wrapped: Wrapped) -> None:
    """A limit on the size of files stands for it: the wrapper's write fails in the same way."""
    text = "seq 200000; exit 5"
    assert wrapped.run(*sh(text), file_bytes=256 * 1024) == 5
    assert wrapped.stdout().startswith(b"1\n2\n")
    assert len(wrapped.stdout()) <= 256 * 1024


def test_the_program_waits_for_the_agents_word(wrapped: Wrapped) -> None:
    with wrapped.running("echo", "started") as process:
        inner(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert not (wrapped.logs / "stdout").exists()
        (wrapped.control / "go").touch()
        assert process.wait(PATIENCE) == 0
    assert wrapped.stdout() == b"started\n"
    started, ended = int((wrapped.logs / "started").read_text()), int(wrapped.exit()[1])
    assert 1_700_000_000_000 < started <= ended


@pytest.mark.parametrize("told", ["never", "SIGTERM"])
def test_a_program_that_is_not_to_start_never_does(wrapped: Wrapped, told: str) -> None:
    with wrapped.running("touch", str(wrapped.logs / "ran")) as process:
        pid = inner(process)
        if told == "never":
            (wrapped.control / "never").touch()
            (wrapped.control / "go").touch()
        else:
            until(lambda: holds_signals_back(pid), "the wrapper's signal mask")
            os.kill(pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 125
    assert not (wrapped.logs / "ran").exists()
    assert not (wrapped.logs / "exit").exists()


def holds_signals_back(pid: int) -> bool:
    """Whether it is the wrapper, no more the `unshare` before it, which does the same for a moment."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    return status["Name"] == "uws-wrapper" and bool(int(status["SigBlk"], 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_reaches_the_program(wrapped: Wrapped, sign: signal.Signals) -> None:
    program = (
        "import signal, sys\n"
        f"signal.signal({sign.value}, lambda *_: sys.exit(42))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    (wrapped.control / "go").touch()
    with wrapped.running(sys.executable, "-c", program) as process:
        ready(wrapped)
        os.kill(inner(process), sign)
        assert process.wait(PATIENCE) == 42
    assert wrapped.exit()[2] == "stopped"


def test_an_interrupt_is_a_keyboard_interrupt(wrapped: Wrapped) -> None:
    (wrapped.control / "go").touch()
    program = "import time\nprint('ready', flush=True)\ntime.sleep(100)"
    with wrapped.running(sys.executable, "-c", program) as process:
        ready(wrapped)
        os.kill(inner(process), signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    assert b"KeyboardInterrupt" in wrapped.stderr()


def ready(wrapped: Wrapped) -> None:
    out = wrapped.logs / "stdout"
    until(lambda: out.exists() and b"ready" in out.read_bytes(), "the program")


def test_a_deaf_program_is_killed_with_all_that_came_of_it(wrapped: Wrapped) -> None:
    (wrapped.control / "go").touch()
    text = "trap '' TERM; (setsid sh -c \"trap '' TERM; sleep 1000\" &) ; echo ready; sleep 1000"
    with wrapped.running(*sh(text), grace=2) as process:
        ready(wrapped)
        os.kill(inner(process), signal.SIGTERM)
        assert process.wait(PATIENCE) == 137
    assert wrapped.exit()[0::2] == ["137", "stopped"]


def test_a_stopped_program_hears_that_it_is_to_end(wrapped: Wrapped) -> None:
    (wrapped.control / "go").touch()
    with wrapped.running(*sh("echo ready; kill -STOP $$; echo on"), grace=60) as process:
        ready(wrapped)
        pid = inner(process)
        until(lambda: stopped_child(pid), "the program's stop")
        os.kill(pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 143


def stopped_child(pid: int) -> bool:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return True
    return False


@pytest.mark.parametrize("text", ["exec sleep 1000", "trap '' TERM; sleep 1000; sleep 1000"])
def test_a_program_over_its_time_is_ended(wrapped: Wrapped, text: str) -> None:
    assert wrapped.run(*sh(text), duration=1, grace=2) in (143, 137)
    assert wrapped.exit()[2] == "timed-out"


def test_what_is_left_behind_is_killed_and_hangs_nothing(wrapped: Wrapped) -> None:
    """A daemon in a session of its own, and one that holds the pipes open."""
    text = "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000' >/dev/null 2>&1 &); sleep 1000 & echo end; exit 9"
    assert wrapped.run(*sh(text)) == 9
    assert wrapped.stdout() == b"end\n"


def test_orphans_are_reaped_while_the_program_runs(wrapped: Wrapped) -> None:
    text = "for i in 1 2 3 4 5 6 7 8; do (true &) ; done; echo ready; read x </dev/null; sleep 1000"
    (wrapped.control / "go").touch()
    with wrapped.running(*sh(text)) as process:
        ready(wrapped)
        pid = inner(process)
        children = Path(f"/proc/{pid}/task/{pid}/children")
        until(lambda: len(children.read_text().split()) == 1, "only the program itself")


def test_the_environment_reaches_the_program_as_it_is(wrapped: Wrapped) -> None:
    (wrapped.control / "go").touch()
    given = {"my.var": "with a dot", "EMPTY": "", "LINES": "two\nlines", "PATH": os.environ["PATH"]}
    with wrapped.running("env", "-0", environment=given) as process:
        assert process.wait(PATIENCE) == 0
    entries = dict(entry.partition("=")[::2] for entry in wrapped.stdout().decode().split("\0") if entry)
    assert entries == given


def test_the_program_is_found_in_the_path_of_its_image(wrapped: Wrapped, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tar"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho the image\\'s own\n")
    program.chmod(0o755)
    (wrapped.control / "go").touch()
    given = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    with wrapped.running("tar", environment=given) as process:
        assert process.wait(PATIENCE) == 0
    assert wrapped.stdout() == b"the image's own\n"


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [("/nowhere/at-all", 127, b"No such file"), ("/etc/passwd", 126, b"Permission denied")],
)
def test_a_program_that_cannot_be_started_says_why(
    wrapped: Wrapped, program: str, code: int, said: bytes
) -> None:
    assert wrapped.run(program) == code
    assert program.encode() in wrapped.stderr()
    assert said in wrapped.stderr()


def test_descriptors_of_the_wrapper_stay_with_it(wrapped: Wrapped) -> None:
    assert wrapped.run(*sh("ls /proc/self/fd | tr '\\n' ' '")) == 0
    assert wrapped.stdout().split() == [b"0", b"1", b"2", b"3"]  # 3 is of ls itself


def test_it_is_process_one_or_nothing(wrapper_program: Path, wrapped: Wrapped) -> None:
    (wrapped.control / "go").touch()
    words = [str(wrapped.control), str(wrapped.logs), "1000000", "0", "10", "--", "true"]
    ran = subprocess.run([wrapper_program, "run", *words], capture_output=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 125
    assert b"must be process 1" in ran.stderr


def test_it_installs_itself_where_it_may_be_in_use(wrapper_program: Path, tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([wrapper_program, "install", tmp_path], check=True, timeout=PATIENCE)
    copy = tmp_path / "uws-wrapper"
    assert copy.read_bytes() == wrapper_program.read_bytes()
    assert subprocess.run([copy], capture_output=True, timeout=PATIENCE, check=False).returncode == 2
    assert list(tmp_path.iterdir()) == [copy]


def test_it_needs_nothing_of_the_users_image(wrapper_program: Path) -> None:
    """Static: no interpreter is asked for in its program headers."""
    told = subprocess.run(
        ["readelf", "-l", wrapper_program], capture_output=True, check=True, timeout=PATIENCE
    )
    assert b"INTERP" not in told.stdout


def as_init(wrapper_program: Path, *command: str) -> subprocess.Popen[bytes]:
    """A command with the wrapper as the process 1 that only passes signals on."""
    words = [*namespace(), str(wrapper_program), "init", *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("text", "code"), [("exit 0", 0), ("exit 67", 67), ("kill -KILL $$", 137), ("sleep 60 & exit 5", 5)]
)
def test_the_agents_exit_code_is_its_containers(wrapper_program: Path, text: str, code: int) -> None:
    with as_init(wrapper_program, *sh(text)) as process:
        assert process.wait(PATIENCE) == code
    with as_init(wrapper_program, "/nowhere") as process:
        assert process.wait(PATIENCE) == 127


def test_an_agent_that_is_told_to_end_before_it_listens_ends(wrapper_program: Path) -> None:
    # As process 1 itself this program would never hear of it: it has no handler, as Python has none at first.
    with as_init(wrapper_program, "sleep", "60") as process:
        until(lambda: command_line(inner(process)), "the wrapper")
        children = Path(f"/proc/{inner(process)}/task/{inner(process)}/children")
        until(lambda: children.read_text().split(), "the agent")
        os.kill(inner(process), signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_an_agent_that_is_told_to_end_at_its_door_ends(wrapper_program: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        own = {
            "UWS_AGENT_URL": f"http://127.0.0.1:{door.getsockname()[1]}",
            "UWS_AGENT_TOKEN": "token",
            "UWS_POD": "pod",
            "UWS_SPEC_SHA256": "0" * 64,
            "UWS_WORK": "/uws",
        }
        agent = (sys.executable, "-m", "runners.agent", "pod", str(tmp_path), str(tmp_path))
        environment = [f"{name}={value}" for name, value in own.items()]
        with as_init(wrapper_program, "env", *environment, *agent) as process:
            door.settimeout(PATIENCE)
            connection, _ = door.accept()
            os.kill(inner(process), signal.SIGTERM)
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM
            connection.close()


def test_an_agent_that_listens_is_told_to_end(wrapper_program: Path) -> None:
    with as_init(wrapper_program, *sh("trap 'exit 9' TERM; echo ready; sleep 60 & wait")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(inner(process), signal.SIGTERM)
        assert process.wait(PATIENCE) == 9
