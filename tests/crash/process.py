"""``python -m tests.crash.process ROLE POINT ACTION uws-server's words``: one real program, armed.

The program is `uws_server.cli.main`. What time decides is made quicker: leases are held for 1.5
seconds instead of ten, links live four seconds instead of an hour.
"""

from __future__ import annotations

import functools
import os
import sys

from tests.crash import points

LEASE_SECONDS = 1.5
LINKS_LIVE = 4000  # ms
_SUPERVISOR = (
    "import sys; sys.path.append(sys.argv[1]); from tests.crash.supervisor import main; main({point!r})"
)


def quicken() -> None:
    """Shorten the leases, and clear deleted jobs' prefixes a second time soon."""
    from runners.watcher import Watcher
    from uws_server.service import reconcile

    for owner in (Watcher, reconcile.Reconciler):
        owner.__init__ = functools.partialmethod(owner.__init__, lease_seconds=LEASE_SECONDS)  # type: ignore[assignment]
    reconcile.LINKS_LIVE = LINKS_LIVE


def arm(point: str, action: str) -> None:
    """Arm this process, or the supervisors or agents that it starts."""
    import runners.local.isolation
    import runners.local.launch

    who, _, _ = point.partition(" ")
    if who == "supervisor":
        runners.local.launch._BOOT = ("-I", "-S", "-c", _SUPERVISOR.format(point=point))
    elif who == "agent":
        agent = (sys.executable, "-m", "tests.crash.agent", point)
        settings = runners.local.isolation.LocalSettings
        settings.__init__ = functools.partialmethod(settings.__init__, agent=agent)  # type: ignore[assignment, method-assign]
    else:
        points.arm(point, points.pause_self if action == "pause" else None)


def main() -> None:
    """See above; without a point nothing is armed."""
    point, action, *words = sys.argv[1:]
    if words[0] == "web":
        os.environ["CRASH_POINT"] = point
        os.execv(
            sys.executable, [sys.executable, "-P", "-m", "gunicorn", "--config", "python:tests.crash.web"]
        )
    quicken()
    if point:
        arm(point, action)
    from uws_server import cli

    sys.argv = ["uws-server", *words]
    cli.main()


if __name__ == "__main__":
    main()
