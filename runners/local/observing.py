"""What is known of an attempt by its directory, and the last word when its supervisor cannot say it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners import ending
from runners.base import Cause, Observation, Outcome, State
from runners.local import site_files
from runners.local.leftovers import end_leftovers

_FINAL = (State.ENDED.value, State.LOST.value)


@contextmanager
def locked(directory: Path) -> Iterator[int | None]:
    """The descriptor that holds the attempt's lock, None when somebody else does."""
    descriptor = os.open(directory / site_files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor if site_files.lock(descriptor) else None
    finally:
        os.close(descriptor)


def has_ended(directory: Path) -> bool:
    """Whether the last word on the attempt has been written."""
    word = site_files.read(str(directory), site_files.STATE)
    return word is not None and word["state"] in _FINAL


def look(directory: Path, job_id: str, attempt: int, watchers: Path) -> Observation | None:
    """What is to be told of the attempt; None when the site does not know it.

    An attempt whose supervisor has died without a last word is ended and concluded first.
    """
    try:
        alive = site_files.is_locked(str(directory / site_files.LOCK))
        word = site_files.read(str(directory), site_files.STATE)
        final = word is not None and word["state"] in _FINAL
        if not alive and not final:
            word = _bury(directory, watchers) or site_files.read(str(directory), site_files.STATE)
            final = word is not None and word["state"] in _FINAL
    except NotADirectoryError:
        return None
    if word is None:
        if (directory / site_files.LAUNCHED).exists():
            return Observation(job_id, attempt, State.STAGING, "starting")
        # Its starter is at work, or died before there was a supervisor: then it is to be started again.
        return Observation(job_id, attempt, State.UNSTARTED) if directory.is_dir() else None
    state = State(word["state"])
    reason = word.get("reason", "")
    if final and alive:  # it has said its last word and is just leaving
        state, reason = State.FINISHING, "ending"
    outcome = word.get("outcome") if state in (State.ENDED, State.LOST) else None
    return Observation(
        job_id,
        attempt,
        state,
        reason or {State.STAGING: "staging in", State.FINISHING: "storing results"}.get(state, ""),
        word.get("started"),
        word.get("ended"),
        Outcome(**{**outcome, "cause": Cause(outcome["cause"])}) if outcome else None,
    )


def _bury(directory: Path, watchers: Path) -> dict[str, Any] | None:
    """The last word on an attempt whose supervisor is not there; None while there is none.

    With the lock held, so that nobody starts it meanwhile, and kept, so that nobody does later.
    """
    started = (directory / site_files.STARTED).exists()
    launched = (directory / site_files.LAUNCHED).exists()
    stopped = (directory / site_files.STOP).exists()
    if not (started or launched or stopped):
        return None  # its starter died before it could spawn, or is just about to: start again
    with locked(directory) as lock:
        if lock is None:
            return None
        word = site_files.read(str(directory), site_files.STATE)
        if word is not None and word["state"] in _FINAL:
            return word  # it spoke between our looks
        if not end_leftovers(directory):
            return {**(word or {}), "state": "finishing", "reason": "its processes are being ended"}
        if stopped and not (directory / site_files.STARTED).exists():
            return conclude(directory, watchers, State.ENDED, ending.outcome("stopped", ending.NEVER_STARTED))
        words = "The job was broken off: its supervisor process ended."
        return conclude(directory, watchers, State.LOST, ending.outcome("lost", words, transient=True))


def conclude(directory: Path, watchers: Path, state: State, outcome: dict[str, Any]) -> dict[str, Any]:
    """Write the last word, in a dead or never born supervisor's place."""
    site_files.give_back(str(directory))  # whoever held it has ended, and the disk may be full
    word = site_files.read(str(directory), site_files.STATE) or {}
    word.update(state=state.value, outcome=outcome)
    if word.get("started"):
        word.setdefault("ended", time.time_ns() // 1_000_000)
    site_files.write(str(directory), site_files.STATE, json.dumps(word), durable=True)
    site_files.sync(str(directory.parent))
    site_files.ring(str(watchers))
    return word
