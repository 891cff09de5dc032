"""``stage-in``, wherever the agent runs: once, and without what reads networks where there are no inputs."""

from __future__ import annotations

from runners.agent.attempt_dir import AttemptDir
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED


def stage_in(attempt: AttemptDir) -> int:
    """Fill the inputs directory, unless an earlier run has done it; the agent's exit code."""
    before = attempt.read_json("stage-in.json")
    if before is None or not before["ok"]:
        if not attempt.spec.inputs:
            attempt.inputs.mkdir(parents=True, exist_ok=True)
            before = {"ok": True, "message": "", "detail": "", "transient": False, "inputs": []}
        else:
            from runners.agent.door import Fenced
            from runners.agent.inputs import fetch_inputs

            try:
                before = fetch_inputs(attempt)
            except Fenced:
                return FENCED
        attempt.write_json("stage-in.json", before)
    return 0 if before["ok"] else STAGE_IN_FAILED
