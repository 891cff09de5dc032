"""From the start of the user's code to the manifest: logs while it runs, results at the end.

Everything may be killed at any time and run again. What was done is written down before and after
each step, and a step done twice has the same effect as once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from runners.agent.attempt_dir import AttemptDir
from runners.agent.deadline import Deadline, DeadlinePassed
from runners.agent.door import Away, Door, Fenced, Refused
from runners.agent.finish import Finish, ending
from runners.agent.logs import SHORTEST_PAUSE, Logs, pace
from runners.agent.memory import Memory
from uws_server.domain.wire import FENCED, STAGE_OUT_FAILED

_LOOK = 0.1  # s between looks at the attempt's directory
_LIVE_PATIENCE = 5.0  # s


class _Terminated(BaseException):
    """SIGTERM came while the user's code was being followed."""


class Progress:
    """Reports the user's own word on how far it is, when it has changed."""

    def __init__(self, attempt: AttemptDir, door: Door) -> None:
        self._attempt = attempt
        self._door = door
        self._reported: tuple[int, int] | None = None

    def report(self) -> None:
        """Tell the server, if there is anything new."""
        seen = last_progress(self._attempt.hint("progress", 4096))
        if seen is None or seen == self._reported:
            return
        with suppress(Refused):  # a hint that the server does not like is no reason to stop
            if not self._door.progress(*seen):
                return
        self._reported = seen


def last_progress(text: bytes) -> tuple[int, int] | None:
    """The last complete line ``DONE OF``, when it makes sense."""
    lines = text.split(b"\n")[:-1]
    words = lines[-1].split() if lines else []
    if len(words) != 2 or not all(word.isdigit() and len(word) <= 9 for word in words):
        return None
    done, of = int(words[0]), int(words[1])
    return (done, of) if done <= of and of > 0 else None


class Follower:
    """``follow``: everything from the start of the user's code to the manifest."""

    def __init__(self, attempt: AttemptDir) -> None:
        self._attempt = attempt
        self._deadline = Deadline()
        self._live = False
        self._start_told = False
        self.told_to_end = False
        """Whether a SIGTERM has come."""
        self._grace = max(1, attempt.spec.limits.grace)

    def heed(self) -> None:
        """From now on, take a SIGTERM for what it says: that there is little time left."""
        signal.signal(signal.SIGTERM, self._terminate)

    def run(self) -> int:
        """Follow to the end; the exit code."""
        if Memory.load(self._attempt).done:
            return self._ending()
        self.heed()
        try:
            try:
                self._live = True
                self._follow()
                self._live = False
            except _Terminated:
                pass  # as after a kill: what was going on is taken up from what is written down
            Finish(self._attempt, self._deadline).run()
        except Fenced:
            return FENCED
        except (Away, Refused) as error:
            self._say(f"The results could not be stored: {error}.", transient=isinstance(error, Away))
        except DeadlinePassed:
            self._say("The results could not be stored in the time that was left.", transient=True)
        except OSError as error:
            self._say(f"The results could not be read: {error.strerror}.", transient=True)
        return self._ending()

    def _follow(self) -> None:
        """Upload logs and report progress until the user's code has ended."""
        # Little patience: while the door is away the logs wait on our disk, and the end must be seen.
        access = self._attempt.access
        patience = min(_LIVE_PATIENCE, access.patience_seconds)
        door = Door(replace(access, patience_seconds=patience), self._deadline)
        memory = Memory.load(self._attempt)
        logs = Logs(self._attempt, memory, door)
        progress = Progress(self._attempt, door)
        start = time.monotonic()
        upload_at = report_at = start
        while self._attempt.exit() is None and not self._deadline.near:
            now = time.monotonic()
            if now >= upload_at:
                with suppress(Away, OSError):  # nothing is lost: such as a disk that is full for a while
                    logs.upload()
                upload_at = time.monotonic() + pace(now - start)
            if now >= report_at:
                self._report_start(door)
                progress.report()
                report_at = time.monotonic() + SHORTEST_PAUSE
            time.sleep(_LOOK)
        progress.report()
        self._report_start(door)

    def _report_start(self, door: Door) -> None:
        """Where nobody else can tell when the user's code started, such as in a pod."""
        if self._start_told:
            return
        at = self._attempt.started()
        if at is not None:
            with suppress(Refused):
                self._start_told = door.started(at)

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self.told_to_end = True
        seconds = self._seconds_left()
        self._deadline.set(seconds)
        backstop = threading.Timer(seconds + 0.5, self._give_up)
        backstop.daemon = True
        backstop.start()
        if self._live:
            self._live = False
            raise _Terminated

    def _seconds_left(self) -> float:
        """A kubelet tells the agent to end as soon as the user's code has ended: that is no stop."""
        end = self._attempt.exit()
        if end is not None and end.word in {"ended", "timed-out"}:
            return max(self._grace, self._attempt.access.storing_seconds)
        return self._grace

    def _give_up(self) -> None:
        """The grace is over and something still hangs, such as a read from a dead server."""
        self._say("The results could not be stored in the time that was left.", transient=True)
        os._exit(STAGE_OUT_FAILED)

    def _say(self, message: str, *, transient: bool) -> None:
        self._attempt.write_json("stage-out.json", ending(message, transient=transient))

    def _ending(self) -> int:
        said = self._attempt.read_json("stage-out.json")
        return 0 if said is not None and said["ok"] else STAGE_OUT_FAILED
