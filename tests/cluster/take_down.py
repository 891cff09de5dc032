"""Taking a cluster down, whatever state it is in, and counting what is left of one."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from tests.cluster import control_groups
from tests.cluster.layout import Layout
from tests.cluster.node import Failed, Node, run
from tests.waiting import until


def take_down(layout: Layout) -> None:
    """End everything of a cluster and remove all that it wrote; raises `Failed` naming what would not go.

    Nothing is asked to end in order: whatever it could still write is thrown away. Only processes whose ids
    this cluster wrote down are ended; the kernel ends what those started, and takes mounts and cards away.
    """
    for number in layout.nodes():
        Node(layout, number).end()
    until(lambda: not _cards(layout), "the network is gone")
    for route in _routes(layout):
        run("ip", "route", "delete", *route.split())
    _remove_control_groups(f"{layout.prefix}-*")
    if layout.state.exists():
        if mounted := _mounts(layout):
            raise Failed(f"still mounted, so nothing below was removed: {mounted}")
        shutil.rmtree(layout.state)
    if left := left_behind(layout):
        raise Failed(f"left behind: {left}")


def take_away(node: Node) -> None:
    """End a node other than the first and remove what it wrote, so that it can join again as a new one."""
    node.end()
    first = Node(node.layout, 1)
    until(lambda: f"to-{node.name}" not in first.inside("ip", "link"), f"the cable of {node.name} is gone")
    _remove_control_groups(f"{node.layout.prefix}-{node.name}")
    shutil.rmtree(node.directory)


def _remove_control_groups(pattern: str) -> None:
    """Remove control groups, which stay busy for a moment after their last process."""

    def gone() -> bool:
        with suppress(OSError):
            control_groups.remove(pattern)
        return not list(control_groups.branches(pattern))

    until(gone, f"the control groups {pattern} are gone")


def left_behind(layout: Layout) -> dict[str, list[str]]:
    """What this machine still has of a cluster, by kind; empty after `take_down`."""
    found: dict[str, list[str]] = {
        "processes": _processes(layout),
        "mounts": _mounts(layout),
        "network cards": _cards(layout),
        "routes": _routes(layout),
        "control groups": [str(path) for path in control_groups.branches(f"{layout.prefix}-*")],
        "directories": [str(layout.state)] if layout.state.exists() else [],
    }
    return {kind: names for kind, names in found.items() if names}


def _cards(layout: Layout) -> list[str]:
    return [
        card["ifname"] for card in json.loads(run("ip", "-json", "link")) if _is_ours(layout, card["ifname"])
    ]


def _is_ours(layout: Layout, card: str) -> bool:
    return card.startswith(f"{layout.prefix}-")


def _routes(layout: Layout) -> list[str]:
    return [line.strip() for line in run("ip", "route", "show", "root", layout.everything).splitlines()]


def _mounts(layout: Layout) -> list[str]:
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in mounted if place.startswith(f"{layout.state}/")]


def _processes(layout: Layout) -> list[str]:
    """Processes that name the cluster's directory, or live in one of its control groups."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            groups = (path / "cgroup").read_text()
        except OSError:
            continue
        # A node's first process and containerd's shims name its directory; pods are in its control groups.
        named = any(word.startswith(f"{layout.state}/node".encode()) for word in words)
        if named or f":/{layout.prefix}-" in groups:
            found.append(path.name)
    return found
