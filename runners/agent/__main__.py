"""The agent: our program beside the user's code. It stages inputs in, and logs and results out.

    python -m runners.agent stage-in DIR
    python -m runners.agent follow DIR
    python -m runners.agent pod DIR CONTROL

Each may be killed at any time and run again. Only the standard library is needed, and each part of it
only where it is used, so that the start is quick and any Python will do.

Exit codes: 0; 65 an input could not be had (``stage-in.json`` says why); 66 something could not be
stored (``stage-out.json``); 67 the attempt is no longer wanted, nothing was written; 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runners.agent.attempt_dir import AttemptDir
from runners.agent.stage_in import stage_in


def main(arguments: list[str]) -> int:
    """Run one of the commands; its exit code."""
    os.umask(0o022)
    match arguments:
        case ["stage-in", top]:
            return stage_in(AttemptDir(Path(top).absolute()))
        case ["follow", top]:
            from runners.agent.follow import Follower

            return Follower(AttemptDir(Path(top).absolute())).run()
        case ["pod", top, control]:
            from runners.agent.pod import Pod

            return Pod(Path(top), Path(control), os.environ).run()
        case _:
            sys.stderr.write("usage: python -m runners.agent stage-in|follow DIR | pod DIR CONTROL\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
