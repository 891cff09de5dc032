"""``POINT VERB DIRECTORY``: the agent, armed while the site has no file `agent-was-killed`."""

from __future__ import annotations

import sys
from pathlib import Path

from runners.agent import __main__ as agent
from tests.crash import points

if __name__ == "__main__":
    point = sys.argv.pop(1)
    killed = Path(sys.argv[2]).parents[1] / "agent-was-killed"
    if sys.argv[1] == "follow" and not killed.exists():

        def kill() -> None:
            killed.touch()
            points.kill_self()

        points.arm(point, kill)
    sys.exit(agent.main(sys.argv[1:]))
