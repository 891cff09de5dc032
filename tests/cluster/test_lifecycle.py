"""Clusters come and go without meeting each other, and leave nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster import lifecycle
from tests.cluster.cluster import Cluster
from tests.cluster.layout import ROOT, Layout, clusters
from tests.cluster.take_down import left_behind
from tests.waiting import until

NAME = f"{ROOT} (another run)"


@pytest.fixture
def other() -> Iterator[None]:
    """Another run's name is free, before and after."""
    lifecycle.down(NAME)
    yield
    lifecycle.down(NAME)


def killed_while_coming_up() -> Layout:
    """What a bring-up leaves that is killed when its node runs and its API server does not answer yet."""
    before = set(clusters())
    command = [sys.executable, "-m", "tests.cluster", "up", "--name", NAME]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "has its images" in line:
                process.kill()
    assert process.returncode == -9
    (left,) = set(clusters()) - before
    return left


def test_the_next_run_sweeps_what_a_killed_one_left(cluster: Cluster, other: None) -> None:
    left = killed_while_coming_up()
    assert {"processes", "network cards", "control groups"} <= left_behind(left).keys()
    lifecycle.up(str(ROOT))
    assert left_behind(left) == {}
    assert cluster.answers("get", "--raw=/readyz")


def test_a_cluster_ends_with_the_run_that_asked_for_it(cluster: Cluster, other: None) -> None:
    with subprocess.Popen(["sleep", "600"]) as run:
        mine = lifecycle.up(NAME, until_end_of=run.pid)
        assert mine.layout != cluster.layout
        assert mine.answers("get", "--raw=/readyz")
        assert mine.node(1).lives()
        run.kill()
    until(lambda: not mine.node(1).lives(), "its node has ended")
    assert cluster.answers("get", "--raw=/readyz")
    lifecycle.down(NAME)
    assert left_behind(mine.layout) == {}
