"""The local site with real processes: what user code gets, its limits, and its end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runners.base import Busy, Cause, State, Unreachable
from runners.local import cgroups
from runners.local.isolation import LocalSettings, Mode, probe
from tests.local_site import QUICK, SMALL, LocalSite, local_site, modes, with_command_line
from tests.waiting import until
from uws_server.domain.runspec import AttemptLimits, Input, Resources, RunSpec

MIB = 1024**2
INPUT = (Input("a.fits", "https://example.org/a.fits"),)
# A child in a session of its own, orphaned, deaf to SIGTERM, found by the mark in its arguments.
DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("daemon", "w").close()
        time.sleep(600)
    os._exit(0)
"""
STAY = "time.sleep(600)\n"


@pytest.fixture(params=modes())
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalSite]:
    with local_site(tmp_path / "site", request.param) as site:
        yield site


def outputs(site: LocalSite, spec: RunSpec) -> Path:
    return site.attempt(spec) / "work" / "outputs"


@pytest.mark.covers("3:local-directory")
def test_user_code_gets_a_cleared_environment(site: LocalSite) -> None:
    os.environ["UWS_SECRET_OF_THE_SERVER"] = "x"
    try:
        spec = site.start("/usr/bin/env", "-0", environment={"my.var": "1 2\n3", "LANG": "de_DE.UTF-8"})
        site.ended(spec)
    finally:
        del os.environ["UWS_SECRET_OF_THE_SERVER"]
    work = site.attempt(spec) / "work"
    got = dict(entry.split("=", 1) for entry in site.log(spec).rstrip("\0").split("\0"))
    path = got.pop("PATH")
    assert "/usr/bin" in path.split(":")
    assert got == {
        "HOME": f"{work}/tmp",
        "TMPDIR": f"{work}/tmp",
        "LANG": "de_DE.UTF-8",
        "UWS_JOB_ID": spec.job_id,
        "UWS_ATTEMPT": "1",
        "UWS_INPUTS": f"{work}/inputs",
        "UWS_OUTPUTS": f"{work}/outputs",
        "UWS_PARAMETERS": f"{work}/uws/parameters.json",
        "UWS_PROGRESS": f"{work}/uws/progress",
        "UWS_ERROR": f"{work}/uws/error.json",
        "my.var": "1 2\n3",
    }


@pytest.mark.covers("3:local-directory")
def test_user_code_gets_paths_and_parameters(site: LocalSite) -> None:
    code = (
        "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:], json.load(open(sys.argv[3]))]))"
    )
    spec = site.start(
        "{python}",
        "-c",
        code,
        "{inputs}/a",
        "x={outputs}",
        "{parameters}",
        "{other} $HOME",
        parameters={"n": 1},
    )
    assert site.ended(spec).outcome
    work = site.attempt(spec) / "work"
    cwd, arguments, parameters = json.loads(site.log(spec))
    assert cwd == f"{work}/outputs"
    assert arguments == [
        f"{work}/inputs/a", f"x={work}/outputs", f"{work}/uws/parameters.json", "{other} $HOME"
    ]  # fmt: skip
    assert parameters == {"n": 1}


@pytest.mark.covers("3:local-streams")
def test_streams_are_kept_apart(site: LocalSite) -> None:
    spec = site.start("/bin/sh", "-c", "echo out; echo err >&2; cat")
    assert site.ended(spec).outcome
    assert (site.log(spec), site.log(spec, "stderr")) == ("out\n", "err\n")
    code, ended = site.log(spec, "exit").split()
    assert (int(code), abs(int(ended) - time.time() * 1000) < 60_000) == (0, True)


@pytest.mark.covers("3:local-runner")
@pytest.mark.parametrize(
    ("does", "code", "message"),
    [
        ("exit 7", 7, "The program ended with exit code 7."),
        ("kill -SEGV $$", 139, "The program was ended by signal SIGSEGV (segmentation fault"),
        ("kill -TERM $$", 143, "The program was ended by signal SIGTERM (asked to end)."),
        ("kill -KILL $$", 137, "The program was ended by signal SIGKILL (killed)."),
    ],
)
def test_exit_codes_and_signals(site: LocalSite, does: str, code: int, message: str) -> None:
    outcome = site.run("/bin/sh", "-c", f"echo why >&2; {does}").outcome
    assert outcome is not None
    assert (outcome.cause, outcome.exit_code, outcome.detail) == (Cause.FAILED, code, "why")
    assert outcome.message.startswith(message)
    assert outcome.message.endswith(" It said last: why")


@pytest.mark.covers("3:local-runner")
def test_a_program_that_is_not_there(site: LocalSite) -> None:
    outcome = site.run("no-such-program").outcome
    assert outcome is not None
    assert (outcome.cause, outcome.exit_code) == (Cause.FAILED, 127)
    assert "no-such-program" in outcome.message + outcome.detail


@pytest.mark.covers("3:local-runner")
def test_signals_are_as_in_a_fresh_process(site: LocalSite) -> None:
    spec = site.start("/bin/grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
    site.ended(spec)
    _, blocked, _, ignored = site.log(spec).split()
    of_libc = 1 << 31 | 1 << 32  # its own two, which no program can use
    assert (int(blocked, 16), int(ignored, 16) & ~of_libc) == (0, 0)


@pytest.mark.covers("3:local-runner")
def test_user_code_can_say_why_it_failed(site: LocalSite) -> None:
    hint = json.dumps({"message": "Cell 3 failed: \x1b[31mno\nfile", "detail": "line 1\nline 2"})
    outcome = site.run("/bin/sh", "-c", f"cat >$UWS_ERROR <<'END'\n{hint}\nEND\nexit 1").outcome
    assert outcome is not None
    assert outcome.message == "Cell 3 failed: no file"
    assert outcome.detail == "line 1\nline 2"


@pytest.mark.covers("3:local-runner")
@pytest.mark.parametrize(
    "trick",
    [
        "mkfifo $UWS_ERROR",
        "ln -s /etc/passwd $UWS_ERROR",
        "mkdir $UWS_ERROR",
        """{python} -c "print('[' * 900000)" >$UWS_ERROR""",
        'echo \'{"message": {"a": 1}}\' >$UWS_ERROR',
        "printf '\\377\\376' >$UWS_ERROR",
    ],
)
def test_a_hostile_error_file_is_ignored(site: LocalSite, trick: str) -> None:
    outcome = site.run("/bin/sh", "-c", f"{trick}; ln -s /etc/passwd $UWS_PROGRESS; exit 4").outcome
    assert outcome is not None
    assert outcome.message.startswith("The program ended with exit code 4.")
    assert "root:" not in outcome.message


@pytest.mark.covers("3:local-abort-tree")
def test_abort_ends_the_whole_tree(site: LocalSite) -> None:
    mark = f"mark-{site.cgroup}-abort"
    spec = site.start("{python}", "-c", DAEMON + STAY, mark)
    until((outputs(site, spec) / "daemon").exists, "the daemon")
    assert len(with_command_line(mark)) >= 2
    asked = time.monotonic()
    site.runner.stop(spec.job_id, 1)
    outcome = site.ended(spec).outcome
    assert with_command_line(mark) == []
    assert outcome is not None
    assert outcome.cause is Cause.STOPPED
    assert time.monotonic() - asked > 0.9  # SIGKILL came at half the grace period


@pytest.mark.covers("3:local-abort-tree", "3:local-limits", "3:bad-endless")
def test_time_out_ends_the_whole_tree(site: LocalSite) -> None:
    mark = f"mark-{site.cgroup}-timeout"
    spec = site.start("{python}", "-c", DAEMON + STAY, mark, limits=AttemptLimits(duration=1, grace=1))
    seen = site.ended(spec)
    assert with_command_line(mark) == []
    assert seen.outcome is not None
    assert seen.outcome.cause is Cause.TIMED_OUT
    assert seen.outcome.message == "The job ran longer than its execution duration of 1 second."
    assert seen.started is not None
    assert seen.ended is not None
    assert 1000 <= seen.ended - seen.started < 10_000


@pytest.mark.covers("3:local-abort-tree")
def test_a_willing_program_may_clean_up(site: LocalSite) -> None:
    code = "trap 'echo bye; exit 0' TERM; touch ready; while :; do sleep 0.05; done"
    spec = site.start("/bin/sh", "-c", code, limits=AttemptLimits(grace=20))
    until((outputs(site, spec) / "ready").exists, "the trap")
    site.runner.stop(spec.job_id, 1)
    seen = site.ended(spec)
    assert site.log(spec) == "bye\n"
    assert seen.outcome is not None
    assert (seen.outcome.cause, seen.outcome.exit_code) == (Cause.STOPPED, 0)


@pytest.mark.covers("3:local-abort-tree")
def test_what_the_program_leaves_behind_ends_with_it(site: LocalSite) -> None:
    mark = f"mark-{site.cgroup}-left"
    waits = "import os\nwhile not os.path.exists('daemon'): time.sleep(0.01)\nprint('done')"
    spec = site.start("{python}", "-c", f"{DAEMON}{waits}", mark)
    seen = site.ended(spec)
    assert with_command_line(mark) == []
    assert seen.outcome is not None
    assert seen.outcome.cause is Cause.SUCCEEDED
    assert site.log(spec) == "done\n"


@pytest.mark.covers("3:local-limits")
def test_too_much_memory(site: LocalSite) -> None:
    code = "import time; a = b'x' * (350 * 2**20); time.sleep(600)"
    outcome = site.run("{python}", "-c", code).outcome
    assert outcome is not None
    assert outcome.cause is Cause.OUT_OF_MEMORY
    assert outcome.message == "The job needed more memory than its limit of 256 MiB."


@pytest.mark.covers("3:local-limits", "3:bad-writes")
@pytest.mark.parametrize(
    "code",
    [
        "for n in range(2000): open(f'f{n}', 'wb').write(bytes(2**20))",
        "f = open('f', 'wb')\nwhile True: f.write(bytes(2**20)); f.flush()",
        "f = open(os.environ['TMPDIR'] + '/f', 'wb')\nwhile True: f.write(bytes(2**20)); f.flush()",
        (
            "f = open('f', 'wb'); os.unlink('f')\nwhile f.tell() < 63 * 2**20: f.write(bytes(2**20))\n"
            "g = open('g', 'wb'); os.unlink('g'); g.write(bytes(2**23)); g.flush(); time.sleep(600)"
        ),
        "for n in range(300): os.mkdir('d'); os.chdir('d')\ntime.sleep(600)",
    ],
    ids=["many", "one", "tmp", "deleted", "deep"],
)
def test_too_much_disk(site: LocalSite, code: str) -> None:
    spec = site.start("{python}", "-c", f"import os, time\n{code}")
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.OUT_OF_DISK
    assert "wrote more to disk than its limit of 64 MiB" in outcome.message or "200 levels" in outcome.message
    used = sum(file.stat().st_size for file in site.attempt(spec).rglob("f*") if file.is_file())
    assert used < 1024 * MIB


@pytest.mark.covers("3:local-limits")
def test_too_much_output(site: LocalSite) -> None:
    limits = replace(QUICK, output_bytes=4 * MIB)
    code = "import time; open('f', 'wb').write(bytes(5 * 2**20)); time.sleep(600)"
    outcome = site.run("{python}", "-c", code, limits=limits).outcome
    assert outcome is not None
    assert outcome.message == "The job wrote more output than its limit of 4 MiB."


@pytest.mark.covers("3:local-streams", "3:bad-prints")
def test_a_runaway_log_keeps_head_and_tail(site: LocalSite) -> None:
    code = (
        "import os\nprint('first', flush=True)\n"
        "for n in range(300): os.write(1, b'y' * 2**20)\n"
        "print('last'); print('apart', file=__import__('sys').stderr)"
    )
    spec = site.start("{python}", "-c", code, limits=replace(QUICK, log_bytes=4 * MIB))
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED
    text = site.log(spec)
    assert 3.9 * MIB < len(text) <= 4 * MIB
    assert text.startswith("first\nyyy")
    assert text.endswith("yyylast\n")
    assert "bytes of output left out ...]" in text
    assert site.log(spec, "stderr") == "apart\n"


@pytest.mark.covers("3:local-runner")
def test_the_agent_stages_in_first(site: LocalSite) -> None:
    (site.directory / "stage-in").write_text('echo data >"$2/work/inputs/a.fits"')
    spec = site.start("/bin/cat", "{inputs}/a.fits", inputs=INPUT)
    assert site.ended(spec).outcome
    assert site.log(spec) == "data\n"


@pytest.mark.covers("3:local-runner")
def test_an_input_that_cannot_be_had(site: LocalSite) -> None:
    word = json.dumps({"ok": False, "message": "a.fits: 404", "detail": "more", "transient": False})
    (site.directory / "stage-in").write_text(f"echo '{word}' >$2/stage-in.json; exit 65")
    spec = site.start("/bin/sh", "-c", "touch ran", inputs=INPUT)
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert (seen.outcome.cause, seen.outcome.message) == (Cause.STAGE_IN, "a.fits: 404")
    assert (seen.outcome.detail, seen.outcome.transient, seen.started) == ("more", False, None)
    assert not (outputs(site, spec) / "ran").exists()


@pytest.mark.covers("3:local-runner")
def test_a_killed_agent_is_run_again(site: LocalSite) -> None:
    again = 'if [ ! -e "$2/{0}" ]; then touch "$2/{0}"; kill -KILL $$; fi'
    (site.directory / "stage-in").write_text(again.format("once"))
    (site.directory / "follow").write_text(again.format("twice"))
    spec = site.start("/bin/echo", "ran", inputs=INPUT)
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED
    assert (site.attempt(spec) / "once").exists()
    assert (site.attempt(spec) / "twice").exists()


@pytest.mark.covers("3:local-runner")
def test_results_that_cannot_be_stored(site: LocalSite) -> None:
    word = json.dumps({"ok": False, "message": "The store is full.", "detail": "", "transient": True})
    (site.directory / "follow").write_text(f"echo '{word}' >$2/stage-out.json; exit 66")
    outcome = site.run("/bin/true").outcome
    assert outcome is not None
    assert (outcome.cause, outcome.message) == (Cause.STAGE_OUT, "The store is full.")
    failed = site.run("/bin/false").outcome
    assert failed is not None
    assert failed.cause is Cause.FAILED  # the first reason is the one to tell


@pytest.mark.covers("3:local-runner")
def test_stop_during_staging(site: LocalSite) -> None:
    (site.directory / "stage-in").write_text("trap '' TERM; touch $2/staging; while :; do sleep 0.05; done")
    spec = site.start("/bin/sh", "-c", "touch ran", inputs=INPUT, limits=AttemptLimits(grace=1))
    until((site.attempt(spec) / "staging").exists, "staging")
    assert site.reached(spec, State.STAGING).reason == "staging in"
    site.runner.stop(spec.job_id, 1)
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert (seen.outcome.cause, seen.started) == (Cause.STOPPED, None)
    assert not (outputs(site, spec) / "ran").exists()


@pytest.mark.covers("3:local-runner")
def test_after_a_stop_the_agent_has_the_grace_period(site: LocalSite) -> None:
    (site.directory / "follow").write_text("touch $2/ending; while :; do sleep 0.05; done")
    spec = site.start("/bin/true", limits=AttemptLimits(grace=1))
    until((site.attempt(spec) / "ending").exists, "the agent's end")
    assert site.reached(spec, State.FINISHING).reason == "storing results"
    site.runner.stop(spec.job_id, 1)
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.STOPPED


@pytest.mark.covers("3:local-runner")
def test_stop_at_any_moment_ends_it(site: LocalSite) -> None:
    for milliseconds in range(0, 60, 6):
        spec = site.start("/bin/sleep", "600")
        time.sleep(milliseconds / 1000)  # the moment is the point
        site.runner.stop(spec.job_id, 1)
        outcome = site.ended(spec).outcome
        assert outcome is not None
        assert outcome.cause is Cause.STOPPED


@pytest.mark.covers("3:local-runner")
def test_start_waits_for_nothing_of_the_attempt(site: LocalSite) -> None:
    go = site.directory / "go"
    (site.directory / "stage-in").write_text(f"while [ ! -e {go} ]; do sleep 0.02; done")
    spec = site.start("/bin/true", inputs=INPUT)  # comes back while the agent waits for what follows
    go.touch()
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED


@pytest.mark.covers("3:local-directory")
def test_forget_removes_whatever_was_made(site: LocalSite) -> None:
    code = """
import os
for n in range(150): os.mkdir("d"); os.chdir("d")
open(b"\\xff\\n", "w").close()
os.symlink("/", "root")
os.mkfifo("fifo")
os.mkdir("closed"); open("closed/f", "w").close(); os.chmod("closed", 0)
os.mkdir(".moved-1"); os.mkdir("-rf"); os.chmod(".", 0)
"""
    spec = site.start("{python}", "-c", code)
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert seen.outcome.cause is Cause.SUCCEEDED, site.log(spec, "stderr")
    site.runner.forget(spec.job_id, 1)
    assert not site.attempt(spec).exists()
    assert Path("/etc/passwd").exists()


@pytest.mark.covers("3:local-limits", "3:bad-fork-bomb")
@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("mode", modes())
def test_a_fork_bomb_is_contained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, *, groups: bool
) -> None:
    if not groups:  # as on a machine without control groups
        monkeypatch.setattr(cgroups, "hierarchies", dict)
        probe.cache_clear()
        if mode == "none" and os.getuid() == 0:  # nobody limits root, and we say so
            assert "a fork bomb stops the machine" in " ".join(probe(LocalSettings(isolation=mode)).lacks)
            probe.cache_clear()
            return
    code = """
import os
open("bombing", "w").close()
while True:
    try:
        os.fork()
    except OSError:
        open("full", "w").close()
"""
    with local_site(tmp_path / "site", mode) as site:
        resources = replace(SMALL, cpu_milli=500, processes=100)
        mark = f"mark-{site.cgroup}-bomb"
        spec = site.start("{python}", "-c", code, mark, resources=resources)
        until((outputs(site, spec) / "full").exists, "the limit")
        assert 1 < len(with_command_line(mark)) <= 110
        other = site.run("/bin/echo", "usable")
        assert other.outcome is not None
        assert other.outcome.cause is Cause.SUCCEEDED
        site.runner.stop(spec.job_id, 1)
        outcome = site.ended(spec).outcome
        assert with_command_line(mark) == []
        assert outcome is not None
        assert outcome.cause is Cause.STOPPED
    probe.cache_clear()


@pytest.mark.covers("3:local-limits")
@pytest.mark.parametrize("mode", [mode for mode in modes() if mode == modes()[0]])
def test_a_full_site_is_busy_or_refuses(tmp_path: Path, mode: Mode) -> None:
    with local_site(tmp_path / "site", mode, uid_first=1_800_000_000, uid_last=1_800_000_000) as site:
        first = site.start("/bin/sleep", "600")
        site.reached(first, State.RUNNING)
        if mode == "namespaces":
            with pytest.raises(Busy, match="user ids"):
                site.start("/bin/true")
            site.runner.stop(first.job_id, 1)
            site.ended(first)
            site.runner.forget(first.job_id, 1)
            assert site.run("/bin/true").started
        outcome = site.run("/bin/true", resources=Resources(gpu=1)).outcome
        assert outcome is not None
        assert (outcome.cause, outcome.message) == (Cause.REFUSED, "This site has no GPU to give to a job.")


@pytest.mark.covers("3:local-runner")
def test_files_torn_by_a_power_cut_stop_no_site(tmp_path: Path) -> None:
    with local_site(tmp_path / "site", modes()[-1]) as site:
        torn, whole = site.start("/bin/true"), site.start("/bin/true")
        for spec in (torn, whole):
            site.ended(spec)
        for name in ("state.json", "plan.json", "spec.json"):
            (site.attempt(torn) / name).write_bytes(b"")
        grave = site.directory / "trash" / "grave"
        grave.mkdir()
        (grave / "plan.json").write_bytes(b"")
        states = {seen.job_id: seen.state for seen in site.another().observe()}
        assert states == {torn.job_id: State.LOST, whole.job_id: State.ENDED}
        assert not grave.exists()


@pytest.mark.covers("3:local-runner")
def test_a_site_whose_disk_is_not_there_is_no_site_that_knows_nothing(tmp_path: Path) -> None:
    with local_site(tmp_path / "site", modes()[-1]) as site:
        site.run("/bin/true")
        site.directory.rename(tmp_path / "elsewhere")
        site.directory.mkdir()  # as a mount point is
        with pytest.raises(Unreachable, match="cannot be read"):
            list(site.runner.observe())
        with pytest.raises(Busy, match="not there"):
            site.start("/bin/true")
        with pytest.raises(Unreachable, match="is its disk mounted"):
            site.another()
        site.directory.rmdir()
        (tmp_path / "elsewhere").rename(site.directory)
        assert len(list(site.another().observe())) == 1
