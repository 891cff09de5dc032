"""What the agent's tests share: a door, and the port where it is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.agent_door import DoorDouble, serving


@pytest.fixture
def door(tmp_path: Path) -> DoorDouble:
    """The agent's door, with a store of its own."""
    return DoorDouble(tmp_path / "store")


@pytest.fixture
def port(door: DoorDouble) -> Iterator[int]:
    """Where the door is served, on loopback."""
    with serving(door.app()) as number:
        yield number
