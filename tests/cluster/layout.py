"""Where a test cluster lives: its directory, its names and its addresses.

Up to sixteen clusters can be on one machine. Each has a number, and everything it makes is named by that
number or lies in its directory: two never meet, and what a killed one left is not what a
living one needs.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

STATES = Path(os.environ.get("UWS_CLUSTER_STATES", "/var/tmp"))
"""Where clusters keep their state. Short, as sockets lie below it, and no overlay file system."""

CLUSTERS = range(16)
REGISTRY = "registry.uws.test"
"""The registry's name in image references. The nodes' containerd knows its address; nobody else does."""
REGISTRY_USER, REGISTRY_PASSWORD = "tester", "open sesame"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and addresses of cluster ``number``."""

    number: int

    @property
    def state(self) -> Path:
        return STATES / f"uws-cluster-{self.number}"

    @property
    def prefix(self) -> str:
        """How every network card and control group of this cluster begins."""
        return f"uwsk{self.number}"

    def has_cards(self) -> bool:
        """Whether this machine has network cards of this cluster."""
        return any(name.startswith(f"{self.prefix}-") for _, name in socket.if_nameindex())

    def _net(self, part: int) -> str:
        return f"10.250.{16 * self.number + part}"

    @property
    def host_ip(self) -> str:
        """This machine as nodes and pods see it: what a test serves to pods listens here."""
        return f"{self._net(0)}.1"

    def node_ip(self, node: int) -> str:
        return f"{self._net(0)}.{10 + node}"

    def pod_net(self, node: int) -> str:
        return f"{self._net(3 + node)}.0/24"

    @property
    def all_pods(self) -> str:
        """The pod networks of all nodes that there can be, and nothing else."""
        return f"{self._net(4)}.0/22"

    @property
    def service_net(self) -> str:
        return f"{self._net(8)}.0/24"

    @property
    def everything(self) -> str:
        return f"{self._net(0)}.0/20"

    @property
    def api_service_ip(self) -> str:
        return f"{self._net(8)}.1"

    @property
    def dns_ip(self) -> str:
        return f"{self._net(8)}.10"

    @property
    def api(self) -> str:
        return f"https://{self.node_ip(1)}:6443"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def record(self) -> Path:
        """Who asked for the cluster and what it runs with; there once it is complete."""
        return self.state / "cluster.json"

    def node_dir(self, node: int) -> Path:
        return self.state / f"node{node}"

    def nodes(self) -> list[int]:
        """The nodes that were started, living or not."""
        return sorted(int(path.name[4:]) for path in self.state.glob("node[1-4]"))


def clusters() -> Iterator[Layout]:
    """Every cluster that has a directory here."""
    for number in CLUSTERS:
        if Layout(number).state.exists():
            yield Layout(number)


def owner_of(layout: Layout) -> str:
    """The checkout that asked for a cluster, or '' when it never came up."""
    try:
        return str(json.loads(layout.record.read_text())["owner"])
    except (OSError, ValueError, KeyError):
        return ""
