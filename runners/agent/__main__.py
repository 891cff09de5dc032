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
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED


def stage_in(attempt: AttemptDir) -> int:
    """Fill the inputs directory, unless an earlier run has done it."""
    before = attempt.read_json("stage-in.json")
    if before is None or not before["ok"]:
        if not attempt.spec.inputs:
            attempt.inputs.mkdir(parents=True, exist_ok=True)
            before = {"ok": True, "message": "", "detail": "", "transient": False, "inputs": []}
        else:
            from runners.agent.door import Fenced
            from runners.agent.stage_in import stage_in as fetch_all

            try:
                before = fetch_all(attempt)
            except Fenced:
                return FENCED
        attempt.write_json("stage-in.json", before)
    return 0 if before["ok"] else STAGE_IN_FAILED


def follow(attempt: AttemptDir) -> int:
    """Store logs and results, and hand in the manifest."""
    from runners.agent.follow import Follower

    return Follower(attempt).run()


def main(arguments: list[str]) -> int:
    """Run one of the commands; its exit code."""
    commands = {"stage-in": stage_in, "follow": follow}
    if len(arguments) == 3 and arguments[0] == "pod":
        from runners.agent.pod import Pod

        os.umask(0o022)
        return Pod(Path(arguments[1]), Path(arguments[2]), os.environ).run()
    if len(arguments) != 2 or arguments[0] not in commands:
        sys.stderr.write("usage: python -m runners.agent stage-in|follow DIR | pod DIR CONTROL\n")
        return 2
    os.umask(0o022)
    return commands[arguments[0]](AttemptDir(Path(arguments[1]).absolute()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
