"""The pure parts of the local site: sentences, logs, trees, groups, files."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runners import ending
from runners.local import capped_log, cgroups, processes, site_files, system_calls, trees
from runners.local.disk_watch import DiskWatch
from runners.local.plan import environment, refusal
from runners.local.view import view
from tests.waiting import PATIENCE
from uws_server.domain.runspec import Resources, RunSpec, substitute

SPEC = RunSpec("01234567890123456789abcdef", 1, "test", "command", ("true",))
LIMITS = {"memory": 2 * 1024**3, "duration": 3600}


def judged(
    *,
    ended_by: str | None = None,
    exit_code: int = 0,
    oom: bool = False,
    disk: str = "",
    hint: object = None,
    stderr: str = "",
) -> dict[str, object]:
    return ending.of_user_code(
        ended_by=ended_by,
        exit_code=exit_code,
        out_of_memory=oom,
        disk_full=disk,
        limits=LIMITS,
        hint=hint,
        stderr=stderr,
    )


@pytest.mark.covers("3:local-limits")
@pytest.mark.parametrize(
    ("given", "cause", "message"),
    [
        ({}, "succeeded", ""),
        ({"exit_code": 9}, "failed", "The program ended with exit code 9."),
        ({"exit_code": 130}, "failed", "The program was ended by signal SIGINT (interrupted)."),
        ({"exit_code": 255}, "failed", "The program ended with exit code 255."),
        ({"oom": True}, "out-of-memory", "The job needed more memory than its limit of 2 GiB."),
        ({"oom": True, "ended_by": "stopped"}, "stopped", "The job was stopped on request."),
        ({"exit_code": 143, "ended_by": "stopped"}, "stopped", "The job was stopped on request."),
        (
            {"exit_code": 137, "ended_by": "timed-out"},
            "timed-out",
            "The job ran longer than its execution duration of 3600 seconds.",
        ),
        (
            {"ended_by": "out-of-memory"},
            "out-of-memory",
            "The job needed more memory than its limit of 2 GiB.",
        ),
        ({"exit_code": 1, "disk": "wrote too much"}, "out-of-disk", "The job wrote too much."),
        ({"exit_code": 1, "hint": {"message": "Cell 3 failed"}}, "failed", "Cell 3 failed"),
        ({"exit_code": 0, "hint": {"message": "Cell 3 failed"}}, "succeeded", ""),
        ({"oom": True, "hint": {"message": "a lie"}}, "out-of-memory", "The job needed more memory than its"),
    ],
)
def test_the_sentence_of_an_end(given: dict[str, object], cause: str, message: str) -> None:
    outcome = judged(**given)  # type: ignore[arg-type]
    assert outcome["cause"] == cause
    assert str(outcome["message"]).startswith(message)
    assert bool(outcome["message"]) == bool(message)
    assert outcome["transient"] is False


@pytest.mark.covers("3:local-runner")
@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", ""),
        ("\n \n\t\n", ""),
        ("Traceback:\n  line 3\nValueError: no such band: 'x'\n\n", "ValueError: no such band: 'x'"),
        (" 10%\r 99%\r100% of the sky\r\n", "100% of the sky"),
        ("\x1b[1;31mError:\x1b[0m bad\x07 key\x00 \u202eright", "Error: bad key right"),
        ("x" * 5000, "x" * 169 + "…"),
    ],
)
def test_a_failed_program_has_the_last_word(stderr: str, said: str) -> None:
    begin = "The program ended with exit code 3."
    assert judged(exit_code=3, stderr=stderr)["message"] == (
        f"{begin} It said last: {said}" if said else begin
    )
    assert judged(exit_code=3, stderr=stderr, hint={"message": "Cell 3 failed"})["message"] == "Cell 3 failed"
    assert (
        judged(exit_code=3, stderr=stderr, ended_by="stopped")["message"] == "The job was stopped on request."
    )


@given(st.integers(1, 255), st.text())
def test_our_sentence_and_the_last_words_fit_a_message(exit_code: int, stderr: str) -> None:
    message = str(judged(exit_code=exit_code, stderr=stderr + "x" * 300)["message"])
    assert message.startswith(ending.of_exit(exit_code))
    assert message.endswith("…")
    assert len(message) <= 300
    assert message.isprintable()


@given(st.text() | st.integers() | st.none(), st.text())
def test_no_hint_breaks_the_sentence(message: object, detail: str) -> None:
    outcome = judged(exit_code=1, hint={"message": message, "detail": detail})
    said = str(outcome["message"])
    assert 0 < len(said) <= 300
    assert said.isprintable()
    assert len(str(outcome["detail"])) <= 20_000


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 bytes"), (1536, "1.5 KiB"), (64 * 1024**2, "64 MiB"), (3 * 1024**3, "3 GiB")]
)
def test_sizes_are_written_as_people_do(count: int, text: str) -> None:
    assert ending.size(count) == text


@pytest.mark.covers("3:local-streams")
@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(200, 4000))
def test_a_log_is_whole_or_head_gap_and_tail(chunks: list[bytes], limit: int) -> None:
    assume(b"[... " not in b"".join(chunks))  # else what is kept says in two places where the gap is
    path = f"/tmp/uws-log-{os.getpid()}"
    log = capped_log.CappedLog(path, limit)
    for chunk in chunks:
        log.write(chunk)
    log.close()
    kept, whole = Path(path).read_bytes(), b"".join(chunks)
    Path(path).unlink()
    assert len(kept) <= limit
    if len(whole) <= limit - 100:
        assert kept == whole
    elif kept != whole:
        head, _, tail = kept.partition(b"\n[... ")
        number, _, end = tail.partition(b" bytes of output left out ...]\n")
        assert whole.startswith(head)
        assert whole.endswith(end)
        assert len(head) + int(number) + len(end) == len(whole)


def test_a_full_disk_loses_output_and_nothing_else() -> None:
    log = capped_log.CappedLog("/dev/full", 10_000)
    log.write(b"x" * 5000)
    log.close()


@pytest.mark.covers("3:local-limits")
def test_usage_follows_no_link_and_no_depth(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100_000))
    (tmp_path / "link").symlink_to("/usr")
    assert 100_000 <= sum(trees.usage(str(tmp_path))) < 120_000
    assert list(trees.usage(str(tmp_path / "link"))) == []
    assert list(trees.usage(str(tmp_path / "missing"))) == []
    deep = tmp_path
    for _ in range(trees.DEEPEST + 2):
        deep /= "d"
    deep.mkdir(parents=True)
    with pytest.raises(trees.TooDeep):
        list(trees.usage(str(tmp_path)))


@pytest.mark.covers("3:local-limits")
def test_the_disk_is_watched_in_slices(tmp_path: Path) -> None:
    for place in ("inputs", "outputs", "tmp"):
        (tmp_path / place).mkdir()
        for number in range(50):
            (tmp_path / place / str(number)).write_bytes(bytes(8192))
    assert DiskWatch(str(tmp_path), 2**20, 2**20).look(set, 10) == ""
    assert DiskWatch(str(tmp_path), 600_000, 2**20).look(set, 10).startswith("wrote more to disk")
    assert DiskWatch(str(tmp_path), 2**20, 300_000).look(set, 10).startswith("wrote more output")
    slow = DiskWatch(str(tmp_path), 600_000, 2**20)
    looks: list[str] = []
    while not (looks and looks[-1]):
        looks.append(slow.look(set, 0))
    assert len(looks) > 50


def test_remove_takes_any_depth_and_leaves_what_links_name(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").touch()
    top = tmp_path / "top"
    top.mkdir()
    code = """
import os
for n in range(1000): os.mkdir("d"); os.chdir("d")
"""
    subprocess.run([sys.executable, "-c", code], cwd=top, check=True)
    (top / "link").symlink_to(keep)
    (top / ".moved-1").mkdir()
    (top / ".moved-2").touch()
    (top / "closed").mkdir()
    (top / "closed" / "file").touch()
    (top / "closed").chmod(0)
    trees.remove(str(top))
    assert not top.exists()
    assert (keep / "file").exists()
    trees.remove(str(top))


@pytest.mark.covers("3:local-limits")
@pytest.mark.parametrize("unified", [True, False])
def test_groups_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unified: bool) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    if unified:
        (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    else:
        for controller in ("memory", "pids", "cpu"):
            (root / controller).mkdir()
            (root / controller / "cgroup.procs").touch()
    written: dict[str, list[str]] = {}

    def record(path: str, text: str) -> None:
        written.setdefault(os.path.relpath(path, root), []).append(text)

    monkeypatch.setattr(cgroups, "_write", record)
    roots = cgroups.hierarchies(str(root))
    group = cgroups.Cgroup("uws", "job.1", roots)
    group.create(memory=1000, processes=7, cpu_milli=1500)
    if unified:
        assert set(roots.values()) == {str(root)}
        enabled = ["+memory", "+pids", "+cpu"]
        assert written == {
            "cgroup.subtree_control": enabled,
            "uws/cgroup.subtree_control": enabled,
            "uws/job.1/memory.max": ["1000"],
            "uws/job.1/pids.max": ["7"],
            "uws/job.1/cpu.max": ["150000 100000"],
        }
        events = root / "uws/job.1/memory.events"
    else:
        assert written == {
            "memory/uws/job.1/memory.limit_in_bytes": ["1000"],
            "pids/uws/job.1/pids.max": ["7"],
            "cpu/uws/job.1/cpu.cfs_period_us": ["100000"],
            "cpu/uws/job.1/cpu.cfs_quota_us": ["150000"],
        }
        events = root / "memory/uws/job.1/memory.oom_control"
    events.write_text("under_oom 0\noom_kill 0\n")
    assert not group.out_of_memory()
    events.write_text("under_oom 0\noom_kill 1\n")
    assert group.out_of_memory()
    (events.parent / "cgroup.procs").write_text("12\n13\n")
    assert group.members() == {12, 13}
    assert not group.remove(0.01)
    for file in events.parent.iterdir():
        file.unlink()
    assert group.remove()
    assert not (events.parent.parent).exists()


def test_substitution_happens_once() -> None:
    places = {"inputs": "{outputs}", "outputs": "/o", "parameters": "/p", "python": "/y"}
    assert substitute("{inputs}{outputs}-{x}{python}{{parameters}}", places) == "{outputs}/o-{x}/y{/p}"


def answer(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """What the kernel would make of a system call: the four instructions that a filter of ours is made of."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    at = 0
    value = 0
    while True:
        code, yes, no, operand = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            return int(operand)
        else:
            tests = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand != 0}
            at += yes if tests[code] else no


@pytest.mark.covers("3:local-isolation")
@pytest.mark.parametrize("machine", system_calls.MACHINES)
def test_the_filter_of_either_machine(machine: str) -> None:
    program = system_calls.program(machine)
    column, architecture = system_calls.MACHINES[machine]
    denied = {numbers[column] for numbers in system_calls.DENIED.values()}
    clone, clone3 = system_calls.CLONE[column], system_calls.CLONE3[column]
    allowed, refused, unknown, killed = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    for number in range(600):
        expected = refused if number in denied else unknown if number == clone3 else allowed
        assert answer(program, architecture, number) == expected, number
        assert answer(program, 0x40000003, number) == killed
    assert answer(program, architecture, clone, 0x01200011) == allowed  # as fork does
    assert answer(program, architecture, clone, 0x003D0F00) == allowed  # as a thread does
    for shift in (17, 25, 26, 27, 28, 29, 30):  # mount, cgroup, UTS, IPC, user, pid, net namespaces
        assert answer(program, architecture, clone, 1 << shift | 17) == refused
    assert answer(program, architecture, 0x40000000 + clone) == refused


@pytest.mark.covers("3:local-isolation")
def test_what_lies_beneath_a_hidden_place_is_hidden_once(tmp_path: Path) -> None:
    inner = tmp_path / "hidden" / "inner"
    inner.mkdir(parents=True)
    (inner / "key").touch()
    (tmp_path / "hidden-too").mkdir()
    hidden = (inner / "key", tmp_path / "hidden", inner, tmp_path / "hidden-too", tmp_path / "missing")
    steps = [step for step in view((tmp_path,), hidden) if step[1].startswith(str(tmp_path))]
    assert steps == [
        ["bind", str(tmp_path)],
        ["empty", str(tmp_path / "hidden")],
        ["empty", str(tmp_path / "hidden-too")],
    ]


@pytest.mark.covers("3:local-runner")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (SPEC, ""),
        (replace(SPEC, kind="container", image="busybox"), "not container images"),
        (replace(SPEC, command=()), "no command"),
        (replace(SPEC, resources=Resources(gpu=1)), "no GPU"),
        (replace(SPEC, command=("a\0b",)), "NUL"),
        (replace(SPEC, environment={"A": "a\0b"}), "NUL"),
        (replace(SPEC, environment={"A=B": "a"}), "a name that is none"),
        (replace(SPEC, environment={"": "a"}), "a name that is none"),
        (replace(SPEC, command=("x" * 200_000,)), "too long"),
        (replace(SPEC, command=("x" * 100_000,) * 20), "too long"),
    ],
)
def test_what_can_never_run_is_refused(spec: RunSpec, words: str) -> None:
    assert words in refusal(spec)
    assert bool(words) == bool(refusal(spec))


def test_the_run_spec_has_the_last_word_on_the_environment() -> None:
    made = environment(replace(SPEC, environment={"LANG": "C", "X": "1"}), "/w")
    assert (made["LANG"], made["X"], made["HOME"]) == ("C", "1", "/w/tmp")


@pytest.mark.covers("3:local-supervisor")
def test_asking_for_a_lock_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not site_files.is_locked(str(path))
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert not site_files.is_locked(str(path))
    assert site_files.lock(first)
    assert site_files.is_locked(str(path))
    assert not site_files.lock(second)
    os.close(first)
    assert site_files.lock(second)
    os.close(second)
    assert not site_files.is_locked(str(path))


def test_hostile_files_are_read_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "other").symlink_to(tmp_path)
    for name in ("link", "fifo", "missing", ".", "other/file"):
        assert site_files.read_hostile(f"{tmp_path}/{name}") == b""
    assert site_files.read_hostile(f"{tmp_path}/file", 4) == b"0123"
    assert site_files.read_hostile(f"{tmp_path}/file", 4, tail=True) == b"6789"
    (tmp_path / "file").write_text("[" * 100_000)
    assert site_files.read_hint(f"{tmp_path}/file") is None


def test_bells_reach_long_paths_and_outlive_nobody(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 200)
    directory.mkdir()
    site_files.ring(str(directory), "wake")
    site_files.ring(str(directory / "missing"))
    with site_files.bind_socket(str(directory), "wake") as door:
        site_files.ring(str(directory), "wake")
        assert door.recv(16) == b"."
        site_files.ring(str(directory))
        assert door.recv(16) == b"."
        for _ in range(2000):
            site_files.ring(str(directory))  # full: nobody waits for nobody
    assert (directory / "wake").exists()
    site_files.ring(str(directory))
    assert not (directory / "wake").exists()


def test_only_the_named_process_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        pid, start = processes.identify(child.pid)
        processes.kill([pid, start - 1])
        assert processes.lives([pid, start])
        processes.kill([pid, start])
        assert child.wait(PATIENCE) == -signal.SIGKILL
    assert not processes.lives([pid, start])
    assert processes.identify(pid)[1] in (0, processes.identify(pid)[1])
    processes.kill([pid, start])


def test_the_supervisor_starts_quickly() -> None:
    code = "import sys; sys.path.append('.'); import runners.local.supervisor; print(*sorted(sys.modules))"
    command = [sys.executable, "-I", "-S", "-c", code]
    loaded = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    slow = {"dataclasses", "typing", "subprocess", "pathlib", "inspect", "uws_server", "logging", "tempfile"}
    assert slow.isdisjoint(loaded.stdout.split())
