"""The agent in a pod, where it is a sidecar: begin, stage in, let the user's code go, follow it to its end.

Elsewhere a runner writes down what the agent is to do. In a pod there is nobody to write it: the agent asks
at its door. That asking also decides whether this pod may run the attempt at all, for a cluster may make
two pods of one Job.

How it ended goes into the container's termination message, which the kubelet shows to who watches the pod.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runners.agent.attempt_dir import Access, AttemptDir, replace_text
from runners.agent.deadline import Deadline
from runners.agent.door import Away, Door, Fenced, Refused
from runners.agent.stage_in import stage_in
from uws_server.domain.runspec import RunSpec, parameters_file
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED

TERMINATION = Path("/dev/termination-log")
_MESSAGE = 4000  # bytes; the kubelet cuts at 4096
_TAIL = 1024  # bytes of stderr that are looked at
_GO, _NEVER = "go", "never"
_END = {signal.SIGTERM}


class Pod:
    """One pod's attempt: ``top`` is the agent's own directory, ``control`` where the wrapper looks."""

    def __init__(
        self, top: Path, control: Path, environment: Mapping[str, str], termination: Path = TERMINATION
    ) -> None:
        self._top = top
        self._termination = termination
        self._control = control
        self._access = Access(
            environment["UWS_AGENT_URL"],
            environment["UWS_AGENT_TOKEN"],
            storing_seconds=float(environment.get("UWS_STORING_SECONDS", "0")),
        )
        self._pod = environment["UWS_POD"]
        self._digest = environment["UWS_SPEC_SHA256"]
        self._work = environment["UWS_WORK"]

    def run(self) -> int:
        """Everything from the first question to the SIGTERM after the manifest; the exit code."""
        try:
            if not (self._top / "spec.json").exists():
                self._begin()
        except Fenced as error:
            return self._never(FENCED, {"stage_in": f"{error}."})
        except (Away, Refused) as error:
            return self._never(STAGE_IN_FAILED, {"stage_in": f"{error}.", "transient": True})
        attempt = AttemptDir(self._top)
        staged = self._stage_in(attempt)
        if staged:
            return staged
        from runners.agent.follow import Follower

        follower = Follower(attempt)
        # Before the code may start: where it ends at once, the kubelet's SIGTERM comes at once.
        follower.heed()
        (self._control / _GO).touch()
        code = follower.run()
        self._say(self._last_word(attempt))
        # Who leaves before the SIGTERM is started again, and it would meet that one unprepared.
        signal.pthread_sigmask(signal.SIG_BLOCK, _END)
        if not follower.told_to_end:
            signal.sigwait(_END)
        return code

    def _begin(self) -> None:
        """Have the run spec, and lay out what the user's code finds.

        :raises Fenced: the attempt has begun in another pod, or is not to begin.
        """
        text = Door(self._access, Deadline()).begin(self._pod)
        if hashlib.sha256(text.encode()).hexdigest() != self._digest:
            raise Refused("the job's template was changed while its pod was being made")
        spec = RunSpec.from_json(text)
        work = self._top / "work"
        for name in ("inputs", "outputs", "tmp", "uws"):
            (work / name).mkdir(parents=True, exist_ok=True)
        (work / "uws" / "parameters.json").write_text(parameters_file(spec, self._work))
        # The run spec last: where it is, all of this is.
        replace_text(self._top / "agent.json", json.dumps(asdict(self._access)))
        replace_text(self._top / "spec.json", text)

    def _stage_in(self, attempt: AttemptDir) -> int:
        code = stage_in(attempt)
        if code == 0:
            return 0
        said = attempt.read_json("stage-in.json") or {}
        return self._never(
            code,
            {
                "stage_in": said.get("message", ""),
                "detail": said.get("detail", ""),
                "transient": said.get("transient", False),
            },
        )

    def _never(self, code: int, word: dict[str, Any]) -> int:
        """Keep the user's code from starting, and wait to be ended: who leaves earlier is started again."""
        self._say(word)
        signal.pthread_sigmask(signal.SIG_BLOCK, _END)
        (self._control / _NEVER).touch()
        signal.sigwait(_END)
        return code

    def _last_word(self, attempt: AttemptDir) -> dict[str, Any]:
        out = attempt.read_json("stage-out.json") or {}
        word: dict[str, Any] = {}
        if not out.get("ok"):
            word |= {
                "stage_out": out.get("message", ""),
                "detail": out.get("detail", ""),
                "transient": out.get("transient", True),
            }
        started, end = attempt.started(), attempt.exit()
        if started is not None:
            word["started"] = started
        if end is not None and end.instant is not None:
            word |= {"ended": end.instant, "timed_out": end.word == "timed-out"}
        try:
            word["hint"] = json.loads(attempt.hint("error.json", 64 * 1024))
        except (ValueError, RecursionError):
            word["stderr"] = attempt.hostile(("logs", "stderr"), _TAIL).decode(errors="replace")
        return word

    def _say(self, word: dict[str, Any]) -> None:
        """Write the termination message; what is long is shortened until it fits."""
        most = _MESSAGE
        while len(text := json.dumps(_shortened(word, most)).encode()) > _MESSAGE:
            most //= 2
        self._termination.write_bytes(text)


def _shortened(value: Any, most: int) -> Any:
    match value:
        case str():
            return value[:most]
        case dict():
            return {key: _shortened(item, most) for key, item in list(value.items())[:20]}
        case bool() | int() | None:
            return value
        case _:
            return None
