"""Keeping programs running, with programs made for it; `test_up` does it with the real ones."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.up_process import lives
from tests.waiting import PATIENCE, until
from uws_server.up.programs import Keeper, Program, Programs
from uws_server.up.run import log_line

pytestmark = pytest.mark.covers("3:up")

Lines = list[tuple[str, str]]


def _program(code: str, *, quiet: bool = False) -> Program:
    return Program("it", (sys.executable, "-u", "-c", code), dict(os.environ), quiet=quiet)


def _run(program: Program, check: Callable[[Programs, Keeper, Lines], Awaitable[None]]) -> Lines:
    """Keep one program running while ``check`` looks; everything is ended after it."""
    said: Lines = []

    async def main() -> None:
        programs = Programs(lambda name, line: said.append((name, line)))
        keeper = programs.start(program)
        try:
            async with asyncio.timeout(PATIENCE):
                await check(programs, keeper, said)
        finally:
            programs.kill()
            await programs.finish()

    asyncio.run(main())
    return said


async def _until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110  nothing tells what another process has done
        await asyncio.sleep(0.01)


def test_lines_are_reported_whole_and_under_the_programs_name() -> None:
    async def check(_programs: Programs, _keeper: Keeper, said: Lines) -> None:
        await _until(lambda: sum(line.count("x") for _, line in said) >= 200_000)

    code = r"""
import os, time
for part in (b"one\ntw", b"o\n", b"\xff\n", b"x" * 200000 + b"\n"):
    os.write(1, part)
time.sleep(60)
"""
    said = _run(_program(code), check)
    assert said[:3] == [("it", "one"), ("it", "two"), ("it", "\N{REPLACEMENT CHARACTER}")]
    assert max(len(line) for _, line in said) < 200_000  # nobody's memory is filled by one line


def test_what_dies_is_started_again_later_and_later() -> None:
    async def check(_programs: Programs, keeper: Keeper, said: Lines) -> None:
        await _until(lambda: keeper.failures >= 4)

    said = [line for _, line in _run(_program("raise SystemExit(3)"), check)]
    assert said[:3] == [
        f"ended with exit code 3 and is started again in {delay} s" for delay in (0.1, 0.3, 0.7)
    ]


def test_a_program_that_is_not_there_is_told_and_tried_again() -> None:
    async def check(_programs: Programs, keeper: Keeper, said: Lines) -> None:
        await _until(lambda: keeper.failures >= 2)

    said = _run(Program("it", ("/nowhere/program",), {}), check)
    assert "No such file" in said[0][1]


def test_the_last_words_of_a_quiet_program_are_told_when_it_dies() -> None:
    async def check(_programs: Programs, keeper: Keeper, said: Lines) -> None:
        await _until(lambda: keeper.pid)
        assert said == []
        await _until(lambda: keeper.failures)

    said = [line for _, line in _run(_program("print('help'); raise SystemExit(1)", quiet=True), check)]
    assert said[0] == "help"
    assert said[1].startswith("ended with exit code 1")


def test_a_deaf_program_is_killed_with_everything_in_its_group() -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child)
time.sleep(600)
"""
    found: list[int] = []

    async def check(programs: Programs, keeper: Keeper, said: Lines) -> None:
        await _until(lambda: said)
        found.extend((keeper.pid or 0, int(said[0][1])))
        await programs.stop([keeper], 0.3)
        assert keeper.pid is None

    said = _run(_program(code), check)
    assert said[-1] == ("it", "did not end within 0.3 s and was killed")
    until(lambda: not any(lives(pid) for pid in found), "the end of the whole group")


def test_a_program_that_loses_its_leader_is_ended_whole() -> None:
    code = "import os, time\nchild = os.fork()\nif child: print(child)\ntime.sleep(600)"

    async def check(_programs: Programs, keeper: Keeper, said: Lines) -> None:
        await _until(lambda: said)
        grandchild, pid = int(said[0][1]), keeper.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await _until(lambda: keeper.failures and not lives(grandchild))

    assert any("ended with signal SIGKILL" in line for _, line in _run(_program(code), check))


def test_what_a_program_left_behind_is_listened_to_no_longer() -> None:
    async def check(_programs: Programs, _keeper: Keeper, said: Lines) -> None:
        await _until(lambda: said)

    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    print(os.getpid())\ntime.sleep(600)"
    ((_, pid),) = _run(_program(code), check)
    os.kill(int(pid), signal.SIGKILL)
    gc.collect()  # of a stream that nobody closed this would be told, and so fail


@pytest.mark.covers("3:up-comes-back")
def test_programs_end_with_the_process_that_keeps_them(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from uws_server.up.programs import Program, Programs
async def main():
    programs = Programs(lambda name, line: print(line, flush=True))
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    programs.start(Program("it", (sys.executable, "-c", code), {dict(os.environ)!r}))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        pid = int(keeper.stdout.readline())
        assert lives(pid)
        keeper.kill()
    until(lambda: not lives(pid), "the program's end")


def test_log_lines_carry_the_program_in_text_and_json() -> None:
    assert log_line("web", "hello", "text") == "web          | hello"
    own = json.loads(log_line("web", '{"level": "warning", "message": "m"}', "json"))
    assert own == {"process": "web", "level": "warning", "message": "m"}
    foreign = json.loads(log_line("redis", "hello", "json"))
    assert (foreign["process"], foreign["message"]) == ("redis", "hello")
