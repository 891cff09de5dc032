"""The supervisor, armed. Standard library only, as the supervisor itself."""

from __future__ import annotations

from runners.local import supervisor
from tests.crash import points


def main(point: str) -> None:
    """See `runners.local.supervisor.main`."""
    points.arm(point)
    supervisor.main()
