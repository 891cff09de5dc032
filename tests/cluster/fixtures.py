"""The cluster that all tests of a run share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster import lifecycle
from tests.cluster.cluster import Cluster
from tests.cluster.layout import ROOT
from tests.cluster.node import Node


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of this checkout: the one that is up, else a new one that ends with this run.

    Processes of pytest-xdist share it: the first to ask makes it; it ends with the one that started them.
    """
    name = str(ROOT)
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    was_up = lifecycle.ours(name) is not None
    yield lifecycle.up(name, until_end_of=os.getppid() if is_worker else os.getpid())
    if not was_up and not is_worker:
        lifecycle.down(name)


@pytest.fixture
def second_node(cluster: Cluster) -> Iterator[Node]:
    """A second node, for tests that lose it: a test may end it, the next one gets a new one.

    Between such tests it takes no pods, so that all others find one node, whichever ran before them.
    """
    lifecycle.up(str(ROOT), nodes=2)
    node = cluster.node(2)
    cluster.kubectl("uncordon", node.name)
    yield node
    if node.lives():
        cluster.kubectl("cordon", node.name)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the cluster for one test."""
    with cluster.namespace() as name:
        yield name
