"""Fetch an attempt's inputs: bounded in size, memory and time, checked, and resumed where possible."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runners.agent.at_once import at_once
from runners.agent.attempt_dir import AttemptDir
from runners.agent.connections import Broken, Unverified
from runners.agent.deadline import Deadline, backoff
from runners.agent.door import Away, Door, Refused
from runners.agent.download import Again, Budget, Never, Part, Unavailable, recorded, shown
from uws_server.domain.runspec import Input
from uws_server.domain.wire import upload_name

if TYPE_CHECKING:
    from runners.agent.web_sources import WebSources

_LONGEST_PAUSE = 30.0  # s
_LONGEST_RETRY_AFTER = 300.0  # s
_PART = ".stage-in-part-"  # how files begin that are not whole yet
_PROGRESS = 64 * 1024  # bytes after which a failure is a new one


def fetch_inputs(attempt: AttemptDir) -> dict[str, Any]:
    """Fill ``work/inputs``; what came of it, as it stands in ``stage-in.json``.

    :raises Fenced: the attempt is no longer wanted.
    """
    answer: dict[str, Any] = {"ok": True, "message": "", "detail": "", "transient": False, "inputs": []}
    try:
        answer["inputs"] = _Staging(attempt).run()
    except Unavailable as error:
        answer.update(ok=False, message=str(error), transient=error.transient)
    except OSError as error:
        answer.update(ok=False, message=f"The inputs could not be written: {error.strerror}.", transient=True)
    return answer


class _Staging:
    """One run of stage-in."""

    def __init__(self, attempt: AttemptDir) -> None:
        self._attempt = attempt
        self._access = attempt.access
        self._door = Door(attempt.access, Deadline())
        self._budget = Budget(attempt.spec.resources.disk_bytes)
        self._end = time.monotonic() + attempt.access.stage_in_seconds
        self._stop = threading.Event()

    @cached_property
    def _web(self) -> WebSources:
        from runners.agent.web_sources import WebSources

        return WebSources(tuple(self._access.deny_networks), self._access.stall_seconds)

    def run(self) -> list[dict[str, Any]]:
        items = self._attempt.spec.inputs
        self._attempt.inputs.mkdir(parents=True, exist_ok=True)
        paths = Counter(_place(item.path) for item in items)
        for path, count in paths.items():
            if path.startswith(_PART):
                raise Unavailable(f"No input can have the path '{path}'.")
            if count > 1:
                raise Unavailable(f"Two inputs have the same path '{path}'.")
        return at_once(self._fetch, list(enumerate(items)))

    def _fetch(self, numbered: tuple[int, Input]) -> dict[str, Any]:
        number, item = numbered
        target = self._attempt.inputs / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Where it is to be, as in a pod the inputs are a volume of their own.
        temporary = self._attempt.inputs / f"{_PART}{number}"
        temporary.unlink(missing_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            part = Part(file, item, self._budget)
            self._fill(part, item)
            if item.sha256 is not None and part.sha256() != item.sha256.lower():
                raise Unavailable(
                    f"Input '{item.path}' from {shown(item.source)} has the wrong checksum: sha256 "
                    f"{part.sha256()} instead of {item.sha256}."
                )
            os.fchmod(file, item.mode & 0o777)
            temporary.rename(target)
        except BaseException:
            self._stop.set()  # those that are still at it
            raise
        finally:
            os.close(file)
            temporary.unlink(missing_ok=True)
        return {
            "path": item.path,
            "source": recorded(item.source),
            "size": part.size,
            "sha256": part.sha256(),
        }

    def _fill(self, part: Part, item: Input) -> None:
        access = self._access
        scheme, _, rest = item.source.partition(":")
        if item.content is not None:
            part.add(item.content.encode())
        elif scheme.lower() in {"http", "https"}:
            self._persist(part, item, lambda: self._web.chunks(item.source, part), access.tries, 0)
        elif scheme.lower() == "upload":
            # Of the server we know that it comes back, and that others may answer in its place until then.
            self._persist(part, item, lambda: self._upload(rest, part), access.tries, access.patience_seconds)
        elif scheme.lower() == "file" and access.file_inputs:
            from runners.agent.file_sources import file_chunks

            hidden = (str(self._attempt.top.parent), *access.file_hidden)
            self._persist(part, item, lambda: file_chunks(item.source, access.file_inputs, hidden), 1, 0)
        elif scheme.lower() == "file":
            raise Unavailable(f"Input '{item.path}': this site takes no file: sources.")
        else:
            raise Unavailable(
                f"Input '{item.path}': '{shown(scheme)[:20]}' is no source; use http, https or an upload."
            )

    def _upload(self, parameter: str, part: Part) -> Iterator[bytes]:
        answer = self._door.get(upload_name(parameter), part.wanted(), self._access.stall_seconds)
        # 403 is a link that was bought long ago, as links go: the next try buys another.
        return part.rest(answer, final=answer.own and answer.status != 403)

    def _persist(
        self, part: Part, item: Input, chunks: Callable[[], Iterator[bytes]], tries: int, patience: float
    ) -> None:
        """Add all chunks. Failures that may pass are tried again, so often and for so many seconds."""
        failures = 0
        since = time.monotonic()
        while True:
            before = part.size
            pause = None
            try:
                for chunk in chunks():
                    self._check_time(item)
                    part.add(chunk)
                return
            except Again as error:
                reason, pause = str(error), error.pause
            except Broken as error:
                reason = str(error)
            except Unverified as error:
                raise self._failed(item, "its certificate could not be verified") from error
            except ValueError as error:  # of urlsplit, and of the host's encoding
                raise self._failed(item, "that is no URL") from error
            except Away as error:
                raise self._failed(item, str(error), transient=True) from error
            except (Never, Refused) as error:
                raise self._failed(item, str(error)) from error
            now = time.monotonic()
            if part.size - before >= _PROGRESS:
                failures, since = 0, now
            failures += 1
            seconds = backoff(failures, _LONGEST_PAUSE) if pause is None else min(pause, _LONGEST_RETRY_AFTER)
            if (failures >= tries and now >= since + patience) or now + seconds >= self._end:
                raise self._failed(item, reason, transient=True)
            self._stop.wait(seconds)
            self._check_time(item)

    def _check_time(self, item: Input) -> None:
        if time.monotonic() > self._end:
            raise self._failed(
                item, f"not all inputs came within {self._access.stage_in_seconds:.0f} s", transient=True
            )
        if self._stop.is_set():
            raise self._failed(item, "another input failed", transient=True)

    def _failed(self, item: Input, reason: str, *, transient: bool = False) -> Unavailable:
        sentence = f"Input '{item.path}' could not be had from {shown(item.source)}: {reason.rstrip('.')}."
        return Unavailable(sentence, transient=transient)


def _place(path: str) -> str:
    """The path of an input, which stays beneath the inputs directory."""
    if (
        path.startswith("/")
        or any(part in {"", ".", ".."} for part in path.split("/"))
        or not path.isprintable()
    ):
        raise Unavailable(f"{path[:64]!r} is no path for an input.")
    return path
