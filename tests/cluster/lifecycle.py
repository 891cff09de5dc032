"""Clusters of this machine over time: who has which, bringing up, taking down, sweeping after killed runs."""

from __future__ import annotations

import json
import os
import time

from tests.cluster import programs
from tests.cluster.bring_up import BringUp
from tests.cluster.cluster import Cluster
from tests.cluster.layout import CLUSTERS, STATES, Layout, clusters, owner_of
from tests.cluster.node import Failed, Node
from tests.cluster.take_down import take_away, take_down

LOCK = STATES / "uws-cluster.lock"


def whole(layout: Layout) -> bool:
    """Whether a cluster came up completely and its first node lives."""
    return layout.record.exists() and Node(layout, 1).lives()


def ours(name: str) -> Cluster | None:
    """The living cluster of that name."""
    found = (layout for layout in clusters() if owner_of(layout) == name and whole(layout))
    return next((Cluster(layout, programs.built()) for layout in found), None)


def up(name: str, nodes: int = 1, until_end_of: int | None = None) -> Cluster:
    """A cluster of that name: the living one, else a new one; first sweeps away what killed runs left."""
    programs.install_debian_packages()
    programs.built()
    os.umask(0o022)  # else the roots of containers are root's alone, and no other user's pod starts
    with programs.locked(LOCK):
        for layout in list(clusters()):
            # Whoever brings one up holds the lock: an unfinished one is nobody's.
            if not whole(layout):
                programs.say(f"sweeping away what a killed run left: {layout.state}")
                take_down(layout)
        cluster = ours(name)
        if cluster is not None and not cluster.answers("get", "--raw=/readyz"):
            programs.say(f"{cluster.layout.state} does not answer: making a new one")
            take_down(cluster.layout)
            cluster = None
        cluster = cluster or _new(name, nodes, until_end_of)
        for number in range(2, nodes + 1):
            node = cluster.node(number)
            if not node.lives():
                if node.directory.exists():
                    take_away(node)
                BringUp(cluster).join(number)
    return cluster


def _new(name: str, nodes: int, until_end_of: int | None) -> Cluster:
    taken = {layout.number for layout in clusters()}
    free = (Layout(number) for number in CLUSTERS if number not in taken)
    # A container that shares this machine's network may have one whose state is not in our sight.
    layout = next((one for one in free if not one.has_cards()), None)
    if layout is None:
        raise Failed(f"{len(CLUSTERS)} clusters are up already")
    try:
        cluster = Cluster(layout, programs.built())
        BringUp(cluster, until_end_of).everything(nodes)
    except BaseException:
        # The logs say why; they go with the next `up`, which finds the cluster incomplete.
        for number in layout.nodes():
            Node(layout, number).end()
        programs.say(f"failed; the logs are in {layout.logs}")
        raise
    layout.record.write_text(json.dumps({"owner": name, "made": time.time()}))
    return cluster


def down(name: str) -> bool:
    """Take the cluster of a name down; whether there was one."""
    with programs.locked(LOCK):
        found = [layout for layout in clusters() if owner_of(layout) == name]
        for layout in found:
            take_down(layout)
    return bool(found)
