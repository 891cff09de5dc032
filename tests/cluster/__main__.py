"""The command line of the test cluster: `scripts/cluster`."""

from __future__ import annotations

import argparse
import os
import sys

from tests.cluster import programs
from tests.cluster.layout import CLUSTERS, ROOT, Layout, clusters, owner_of
from tests.cluster.lifecycle import down, ours, up, whole
from tests.cluster.node import Failed, Node
from tests.cluster.take_down import left_behind


def status(name: str) -> int:
    """Print what there is, ours and others'."""
    for layout in clusters():
        owner = owner_of(layout) or "an unfinished run"
        state = "up" if whole(layout) else "dead"
        print(f"{layout.state}: {state}, of {owner}{' (this one)' if owner == name else ''}")
        for number in layout.nodes():
            node = Node(layout, number)
            names = sorted(node.order({"do": "list"})["running"]) if node.lives() else ["dead"]
            print(f"  {node.name} {node.ip}: {', '.join(names)}")
    for number in CLUSTERS:
        if not Layout(number).state.exists() and (left := left_behind(Layout(number))):
            print(f"left of cluster {number}: {left}")
    found = ours(name)
    print(f"KUBECONFIG={found.kubeconfig}" if found else "no cluster of this checkout is up")
    return 0 if found else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster", description="A real Kubernetes cluster for tests."
    )
    parser.add_argument("do", choices=["up", "down", "status", "build"])
    parser.add_argument("--nodes", type=int, default=1, choices=range(1, 5), help="how many nodes (1 to 4)")
    parser.add_argument("--name", default=str(ROOT), help="whose cluster; this checkout's unless told")
    parser.add_argument("--until-end-of", type=int, metavar="PID", help="take it down when that process ends")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: it makes network namespaces and control groups")
    try:
        match chosen.do:
            case "build":
                programs.install_debian_packages()
                print(programs.built())
            case "up":
                print(f"KUBECONFIG={up(chosen.name, chosen.nodes, chosen.until_end_of).kubeconfig}")
            case "down":
                programs.say("taken down" if down(chosen.name) else "there was none")
            case _:
                return status(chosen.name)
    except (Failed, AssertionError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
