"""A server in one process and a client for it."""

from __future__ import annotations

import os

import pytest

from tests.web.world import Client, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Client:
    return world.client()


@pytest.fixture
def update_golden() -> bool:
    """Whether recorded documents are to be recorded anew: ``UPDATE_GOLDEN=1 pytest tests/web``."""
    return os.environ.get("UPDATE_GOLDEN") == "1"
