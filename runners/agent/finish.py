"""The end of an attempt: the rest of the logs, the results, and the manifest last."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from runners.agent.at_once import at_once
from runners.agent.attempt_dir import AttemptDir
from runners.agent.deadline import Deadline, DeadlinePassed
from runners.agent.door import Door, Refused
from runners.agent.in_parts import InParts
from runners.agent.logs import Logs
from runners.agent.memory import Memory
from runners.agent.stage_out import Changed, Harvest, Reading, Result, harvest
from uws_server.domain.wire import MOST_LINKS, STREAMS, Link, Wanted, result_name

_BATCH_BYTES = 256 * 1024**2  # links do not wait for more than this to be sent
_SAVE_EVERY = 0.5  # s


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
        self._storing = deadline.less(kept_back)
        self._door = Door(attempt.access, self._storing)
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
        end = self._attempt.exit()
        if end is not None and end.code == 0:
            faults += [
                f"The job made no file for its output '{one.id}' ({one.glob})" for one in found.missing
            ]
        notes = [*found.notes, *([logs.refused] if logs.refused else [])]
        said = ending(f"{faults[0]}." if faults else "", "\n".join([*faults[1:], *notes]), transient=cut_off)
        return self._manifest(found, said, notes, logs), said

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
        for batch in _batches(waiting):
            stored = at_once(self._send, list(zip(batch, self._links(batch), strict=True)))
            found.faults += [fault for fault in stored if fault]
        self._memory.save(self._attempt)

    def _links(self, batch: list[Result]) -> Sequence[Link | None]:
        """Links for all of them, or for none: when one is refused, each is asked for by itself."""
        try:
            return self._door.links([_wanted(result, result.size) for result in batch])
        except Refused:
            return [None] * len(batch)

    def _send(self, linked: tuple[Result, Link | None]) -> str:
        """Store one result; a sentence when that cannot be done."""
        result, link = linked
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
            if link is None or file.size != result.size:
                link = self._door.links([wanted])[0]
            if link.parts:
                self._in_parts(wanted.name, file).store(wanted.name, file)
            else:
                self._door.put(wanted, file.chunks, result.media_type, link)
            self._remember(wanted.name, result, file)
        except Refused as error:
            return f"{where}: {error}"
        finally:
            file.close()
        return ""

    def _in_parts(self, name: str, file: Reading) -> InParts:
        upload, state = self._memory.uploads.get(name, ("", []))
        noted = upload if state == file.state else ""

        def note(begun: str) -> None:
            with self._lock:
                self._memory.uploads[name] = begun, file.state
                self._memory.save(self._attempt)

        return InParts(self._door, self._storing, self._attempt.access.patience_seconds, noted, note)

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
            self._memory.uploads.pop(name, None)
            if time.monotonic() - self._saved > _SAVE_EVERY:
                self._memory.save(self._attempt)
                self._saved = time.monotonic()

    def _manifest(self, found: Harvest, said: dict[str, Any], notes: list[str], logs: Logs) -> dict[str, Any]:
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
            "checksums": {stream: logs.sha256(stream) for stream in STREAMS},
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
    return Wanted("PUT", result_name(result.path), size, parts=True)


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
