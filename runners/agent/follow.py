"""From the start of the user's code to the manifest: logs while it runs, results at the end.

Everything may be killed at any time and run again. What was done is written down before and after
each step, and a step done twice has the same effect as once.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from runners.agent.attempt_dir import AttemptDir
from runners.agent.door import Away, Deadline, DeadlinePassed, Door, Fenced, Refused
from runners.agent.stage_out import Changed, Harvest, Reading, Result, harvest
from uws_server.domain.wire import (
    FENCED,
    MOST_LINKS,
    STAGE_OUT_FAILED,
    STREAMS,
    Link,
    Wanted,
    result_name,
    segment_name,
)

SEGMENT = 4 * 1024**2  # bytes of a log that go in one object
_SHORTEST_PAUSE = 0.25  # s between uploads of a log
_LONGEST_PAUSE = 30.0
_LOOK = 0.1  # s between looks at the attempt's directory
_AT_ONCE = 4
_BATCH_BYTES = 256 * 1024**2  # links do not wait for more than this to be sent
_SAVE_EVERY = 0.5  # s
_LIVE_PATIENCE = 5.0  # s


class _Terminated(BaseException):
    """SIGTERM came while the user's code was being followed."""


@dataclass(slots=True)
class Memory:
    """``agent-state.json``: what is stored already.

    ``logs``: per stream the offset up to which it is stored, and the size of the segment that was
    begun there, 0 for none. A segment that was begun is sent again with the same size, so that
    what a name stands for never changes. ``results``: object name to the manifest's entry.
    """

    logs: dict[str, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(STREAMS, (0, 0)))
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: bool = False

    @classmethod
    def load(cls, attempt: AttemptDir) -> Memory:
        """What an earlier run of the agent wrote down, if any."""
        data = attempt.read_json("agent-state.json")
        if data is None:
            return cls()
        logs = {stream: (mark[0], mark[1]) for stream, mark in data["logs"].items()}
        return cls(logs, data["results"], data["done"])

    def save(self, attempt: AttemptDir) -> None:
        """Write it down."""
        attempt.write_json(
            "agent-state.json", {"logs": self.logs, "results": self.results, "done": self.done}
        )


def pace(seconds: float) -> float:
    """Seconds between uploads of a log, that long after the start.

    Metaflow's rule: a quarter of a second for the first ten minutes, when somebody is looking,
    growing along a sigmoid to half a minute.
    """
    return _SHORTEST_PAUSE + _LONGEST_PAUSE / (1.0 + math.exp(9.0 - 0.01 * min(seconds, 1e4)))


class Logs:
    """Uploads the log files in segments that are named by where they start."""

    def __init__(self, attempt: AttemptDir, memory: Memory, door: Door) -> None:
        self._attempt = attempt
        self._memory = memory
        self._door = door
        self.refused = ""

    def upload(self) -> bool:
        """Store the next segment of each stream that has one; whether there was any."""
        begun = []
        for stream in STREAMS:
            offset, size = self._memory.logs[stream]
            size = size or min(SEGMENT, self._length(stream) - offset)
            if size > 0:
                self._memory.logs[stream] = offset, size
                begun.append((stream, offset, size))
        if not begun or self.refused:
            return False
        self._memory.save(self._attempt)
        wanted = [Wanted("PUT", segment_name(stream, offset), size) for stream, offset, size in begun]
        try:
            links = self._door.links(wanted)
            for (stream, offset, size), want, link in zip(begun, wanted, links, strict=True):
                content = self._read(stream, offset, size)
                self._door.put(want, lambda: (content,), "text/plain", link)  # noqa: B023 - used at once
                self._memory.logs[stream] = offset + size, 0
        except Refused as error:
            # A log that may not be stored must not cost the results.
            self.refused = f"The log is not complete: {error}"
            return False
        self._memory.save(self._attempt)
        return True

    def upload_all(self) -> None:
        """Store what is left."""
        while self.upload():
            pass

    def _path(self, stream: str) -> Path:
        return self._attempt.top / "logs" / stream

    def _length(self, stream: str) -> int:
        try:
            return self._path(stream).stat().st_size
        except FileNotFoundError:
            return 0

    def _read(self, stream: str, offset: int, size: int) -> bytes:
        with self._path(stream).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        # Nothing takes bytes out of a log; should a disk lose some, the size promised is kept.
        return content.ljust(size, b"\0")


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
        self._grace = max(1, attempt.spec.limits.grace)

    def run(self) -> int:
        """Follow to the end; the exit code."""
        if Memory.load(self._attempt).done:
            return self._ending()
        signal.signal(signal.SIGTERM, self._terminate)
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
        while not (self._attempt.ended() or self._deadline.near):
            now = time.monotonic()
            if now >= upload_at:
                with suppress(Away, OSError):  # nothing is lost: such as a disk that is full for a while
                    logs.upload()
                upload_at = time.monotonic() + pace(now - start)
            if now >= report_at:
                progress.report()
                report_at = time.monotonic() + _SHORTEST_PAUSE
            time.sleep(_LOOK)
        progress.report()

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self._deadline.set(self._grace)
        backstop = threading.Timer(self._grace + 0.5, self._give_up)
        backstop.daemon = True
        backstop.start()
        if self._live:
            self._live = False
            raise _Terminated

    def _give_up(self) -> None:
        """The grace is over and something still hangs, such as a read from a dead server."""
        self._say("The results could not be stored in the time that was left.", transient=True)
        os._exit(STAGE_OUT_FAILED)

    def _say(self, message: str, *, transient: bool) -> None:
        self._attempt.write_json("stage-out.json", ending(message, transient=transient))

    def _ending(self) -> int:
        said = self._attempt.read_json("stage-out.json")
        return 0 if said is not None and said["ok"] else STAGE_OUT_FAILED


def ending(message: str = "", detail: str = "", *, transient: bool = False) -> dict[str, Any]:
    """What stands in ``stage-out.json``; no message means that all went well."""
    return {"ok": not message, "message": message, "detail": detail, "transient": transient}


class Finish:
    """The end of an attempt: the rest of the logs, the results, and the manifest last."""

    def __init__(self, attempt: AttemptDir, deadline: Deadline) -> None:
        self._attempt = attempt
        self._spec = attempt.spec
        self._memory = Memory.load(attempt)
        self._deadline = deadline
        # After a SIGTERM, some of the time is kept back for the manifest.
        kept_back = min(2.0, 0.2 * attempt.spec.limits.grace)
        self._door = Door(attempt.access, deadline.less(kept_back), threads=_AT_ONCE)
        self._lock = threading.Lock()
        self._saved = time.monotonic()

    def run(self) -> None:
        """Do what is not done yet.

        :raises Away, Refused, Fenced, DeadlinePassed: the manifest could not be handed in.
        """
        handed = self._attempt.read_json("manifest.json")
        if handed is None:
            manifest, said = self._store()
            handed = {"manifest": manifest, "said": said}
            # Kept before it leaves, so that another run hands in the same one.
            self._attempt.write_json("manifest.json", handed)
        Door(self._attempt.access, self._deadline).manifest(handed["manifest"])
        self._attempt.write_json("stage-out.json", handed["said"])
        self._memory.done = True
        self._memory.save(self._attempt)

    def _store(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Store logs and results: the manifest, and what to say of it."""
        logs = Logs(self._attempt, self._memory, self._door)
        found = Harvest()
        cut_off = False
        try:
            logs.upload_all()
            found = self._harvest()
            self._upload(found)
        except DeadlinePassed:
            cut_off = True
        faults = list(found.faults)
        if cut_off:
            faults.append("Not everything could be stored in the time that was left")
        if self._attempt.exit_code() == 0:
            faults += [
                f"The job made no file for its output '{one.id}' ({one.glob})" for one in found.missing
            ]
        notes = [*found.notes, *([logs.refused] if logs.refused else [])]
        said = ending(f"{faults[0]}." if faults else "", "\n".join([*faults[1:], *notes]), transient=cut_off)
        return self._manifest(found, said, notes), said

    def _harvest(self) -> Harvest:
        try:
            root = self._attempt.directory("work", "outputs")
        except OSError:
            # User code removed the directory, or put something else in its place.
            return Harvest(missing=[output for output in self._spec.outputs if output.required])
        try:
            return harvest(root, self._spec.outputs, self._spec.limits)
        finally:
            os.close(root)

    def _upload(self, found: Harvest) -> None:
        """Store the results, a few at a time."""
        waiting = [result for result in found.results if result_name(result.path) not in self._memory.results]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for batch in _batches(waiting):
                stored = threads.map(self._send, batch, self._links(batch))
                found.faults += [fault for fault in stored if fault]
        self._memory.save(self._attempt)

    def _links(self, batch: list[Result]) -> Sequence[Link | None]:
        """Links for all of them, or for none: when one is refused, each is asked for by itself."""
        try:
            return self._door.links([_wanted(result, result.size) for result in batch])
        except Refused:
            return [None] * len(batch)

    def _send(self, result: Result, link: Link | None) -> str:
        """Store one result; a sentence when that cannot be done."""
        where = f"The output '{result.path}' could not be stored"
        with suppress(Changed):
            return self._send_once(result, link, where)
        try:  # once more, with the size that it has now
            return self._send_once(result, None, where)
        except Changed as error:
            return f"{where}: {error}"

    def _send_once(self, result: Result, link: Link | None, where: str) -> str:
        root = self._attempt.directory("work", "outputs")
        try:
            file = Reading(root, result.path)
        except OSError as error:
            return f"{where}: {error.strerror or error}"
        finally:
            os.close(root)
        try:
            wanted = _wanted(result, file.size)
            self._door.put(wanted, file.chunks, result.media_type, link if file.size == result.size else None)
            self._remember(wanted.name, result, file)
        except Refused as error:
            return f"{where}: {error}"
        finally:
            file.close()
        return ""

    def _remember(self, name: str, result: Result, file: Reading) -> None:
        entry = {
            "id": result.id,
            "name": name,
            "size": file.size,
            "media_type": result.media_type,
            "sha256": file.sha256(),
        }
        with self._lock:
            self._memory.results[name] = entry
            if time.monotonic() - self._saved > _SAVE_EVERY:
                self._memory.save(self._attempt)
                self._saved = time.monotonic()

    def _manifest(self, found: Harvest, said: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        stored = self._memory.results
        names = [result_name(result.path) for result in found.results]
        staged = self._attempt.read_json("stage-in.json") or {}
        error = user_error(self._attempt.hint("error.json", 64 * 1024))
        if error is None and not said["ok"]:
            error = {"message": said["message"], "detail": said["detail"]}
        return {
            "version": 1,
            "job": self._spec.job_id,
            "attempt": self._spec.attempt,
            "inputs": staged.get("inputs", []),
            "logs": {stream: self._memory.logs[stream][0] for stream in STREAMS},
            "results": [stored[name] for name in names if name in stored],
            "error": error,
            "notes": notes,
        }


def user_error(text: bytes) -> dict[str, str] | None:
    """The user code's word on why it failed, cut to what an error summary takes."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("message"), str):
        return None
    message = "".join(c if c.isprintable() else " " for c in data["message"][:2000])
    message = " ".join(message.split())[:500]
    detail = data.get("detail")
    kept = detail[:20_000] if isinstance(detail, str) else ""
    kept = "".join(c if c.isprintable() or c in "\n\t" else " " for c in kept)
    return {"message": message, "detail": kept} if message else None


def _wanted(result: Result, size: int) -> Wanted:
    return Wanted("PUT", result_name(result.path), size)


def _batches(results: list[Result]) -> Iterator[list[Result]]:
    """Portions for which links are bought at once: they live a minute."""
    batch: list[Result] = []
    size = 0
    for result in results:
        if batch and (len(batch) >= MOST_LINKS or size + result.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(result)
        size += result.size
    if batch:
        yield batch
