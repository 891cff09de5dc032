"""A job that fills the site's disk: its own fault, told as such, and its code is run once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners.base import Busy, Cause, State
from runners.local import site_files
from tests.local_site import LocalSite, local_site, modes, with_command_line
from tests.waiting import until
from uws_server.domain.runspec import RunSpec

DISK = 16 * 1024**2  # bytes; less than the job's own limit
FILL = "echo run >>runs; head -c 64M /dev/zero >big; echo full >&2; touch done; "
STAY = "while [ ! -e go ]; do sleep 0.05; done"


# A file system of its own size needs root, who has namespaces.
@pytest.fixture(params=[mode for mode in modes() if mode == "namespaces"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalSite]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "uws-test", disk], check=True)
    try:
        with local_site(disk / "site", request.param) as site:
            yield site
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def outputs(site: LocalSite, spec: RunSpec) -> Path:
    return site.attempt(spec) / "work" / "outputs"


def fill(path: Path, leave: int = 0) -> None:
    """Take all of the disk, but for so many bytes."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bfree * free.f_frsize - leave)


@pytest.mark.covers("3:local-limits", "3:local-runner")
def test_there_is_room_for_the_end_of_a_job_that_fills_the_disk(site: LocalSite) -> None:
    (site.directory / "follow").write_text('head -c 400000 /dev/zero >"$2/agent-state.json"\n')
    spec = site.start("/bin/sh", "-c", f"{FILL} exit 0")
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert (seen.state, seen.outcome.cause, seen.outcome.exit_code) == (State.ENDED, Cause.SUCCEEDED, 0)
    assert (outputs(site, spec) / "big").stat().st_size < DISK
    assert (site.attempt(spec) / "agent-state.json").stat().st_size == 400_000
    assert (outputs(site, spec) / "runs").read_text() == "run\n"


@pytest.mark.covers("3:local-limits", "3:local-runner")
def test_a_full_disk_is_no_fault_that_is_tried_again(site: LocalSite) -> None:
    """The agent needs more than was kept back."""
    (site.directory / "follow").write_text('head -c 3000000 /dev/zero >"$2/agent-state.json" || exit 1\n')
    spec = site.start("/bin/sh", "-c", f"{FILL} exit 0")
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert (seen.state, seen.outcome.cause) == (State.ENDED, Cause.OUT_OF_DISK)
    assert "disk was full" in seen.outcome.message
    assert not seen.outcome.transient


@pytest.mark.covers("3:local-limits", "3:local-runner")
def test_an_end_that_cannot_be_recorded_for_want_of_disk(site: LocalSite) -> None:
    """Others have taken what was kept back, too; they leave some before the last word is given up."""
    spec = site.start("/bin/sh", "-c", f"echo run >>runs; {STAY}")
    site.reached(spec, State.RUNNING)
    until((outputs(site, spec) / "runs").exists, "the user's code")
    agent = f"follow\0{site.attempt(spec)}"
    until(lambda: with_command_line(agent), "the agent")
    site_files.give_back(str(site.attempt(spec)))
    fill(site.directory / "filler")
    (outputs(site, spec) / "go").touch()
    until(lambda: not with_command_line(agent), "the agent's end: there is nothing that it could wait for")
    (site.directory / "filler").unlink()
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert (seen.state, seen.outcome.cause) == (State.ENDED, Cause.OUT_OF_DISK)
    assert not seen.outcome.transient


@pytest.mark.covers("3:local-runner")
def test_the_end_of_a_killed_supervisor_is_told_on_a_full_disk(site: LocalSite) -> None:
    spec = site.start("/bin/sh", "-c", f"{FILL} {STAY}")
    until((outputs(site, spec) / "done").exists, "the full disk")
    site.kill_supervisor(spec)
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert (seen.state, seen.outcome.cause) == (State.LOST, Cause.LOST)


@pytest.mark.covers("3:local-runner")
def test_nothing_is_started_without_room_for_its_end(site: LocalSite) -> None:
    spec = site.spec("/bin/true")
    fill(site.directory / "filler", leave=512 * 1024)
    with pytest.raises(Busy, match="disk is full"):
        site.runner.start(spec, "http://127.0.0.1:9/agent/v1", "token")
    (site.directory / "filler").unlink()
    site.runner.start(spec, "http://127.0.0.1:9/agent/v1", "token")
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED
