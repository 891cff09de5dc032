"""A server in one process and a client for it."""

from __future__ import annotations

import pytest

from tests.web.world import Client, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    return world.client()
