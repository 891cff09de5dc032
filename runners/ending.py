"""How an attempt ended, in words a scientist understands. Pure, standard library only.

A runner says what it did and saw; here that becomes the outcome, the same at every site. The local
site's supervisor imports this, and its start-up time counts.
"""

from __future__ import annotations

import re
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEVER_STARTED = "The job was stopped before it started."
_SENTENCE = 300  # characters of a message
_LAST_WORDS = 170  # of user code's own in one: the longest sentence of ours leaves room for so many
_DETAIL = 20_000
_TAIL = 4096  # characters of error output that are looked through for its last line
_COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # and other orders to a terminal

_SIGNALS = {
    signal.SIGSEGV: "segmentation fault: the program used memory that is not its own",
    signal.SIGKILL: "killed",
    signal.SIGTERM: "asked to end",
    signal.SIGABRT: "the program gave up",
    signal.SIGFPE: "arithmetic error",
    signal.SIGILL: "the program holds an instruction this processor does not have",
    signal.SIGBUS: "bus error",
    signal.SIGINT: "interrupted",
    signal.SIGSYS: "forbidden system call",
}


def size(count: int) -> str:
    """Bytes as people write them: ``2 GiB``, ``1.5 MiB``."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bytes"


def seconds(count: int) -> str:
    """A duration as people write it."""
    return "1 second" if count == 1 else f"{count} seconds"


def clean(text: object, limit: int = _SENTENCE, *, lines: bool = False) -> str:
    """User code's text without control characters, cut to `limit`; '' for anything but text."""
    if not isinstance(text, str):
        return ""
    text = _COLOUR.sub("", text[: 4 * limit])
    kept = "".join(c if c.isprintable() or (lines and c in "\n\t") else " " for c in text)
    return (kept if lines else " ".join(kept.split()))[:limit].strip()


def outcome(
    cause: str,
    message: str = "",
    detail: str = "",
    exit_code: int | None = None,
    transient: bool = False,
) -> dict[str, Any]:
    """The fields of `runners.base.Outcome` as they stand in state.json."""
    return {
        "cause": cause,
        "message": clean(message),
        "detail": clean(detail, _DETAIL, lines=True),
        "exit_code": exit_code,
        "transient": transient,
    }


def of_exit(exit_code: int) -> str:
    """One sentence for an exit code; above 128 a signal, as shells count."""
    if exit_code > 128:
        try:
            number = signal.Signals(exit_code - 128)
        except ValueError:
            return f"The program ended with exit code {exit_code}."
        words = _SIGNALS.get(number)
        return f"The program was ended by signal {number.name}{f' ({words})' if words else ''}."
    if exit_code == 127:
        return "The program ended with exit code 127: a command was not found."
    return f"The program ended with exit code {exit_code}."


def last_words(stderr: str) -> str:
    """The last line of error output that says anything, on one line and cut short; '' when none does."""
    for line in reversed(re.split(r"[\r\n]", stderr[-_TAIL:])):
        if said := clean(line):
            return said if len(said) <= _LAST_WORDS else f"{said[: _LAST_WORDS - 1]}…"
    return ""


def of_user_code(
    *,
    ended_by: str | None,
    exit_code: int,
    out_of_memory: bool,
    disk_full: str,
    limits: dict[str, int],
    hint: object,
    stderr: str,
) -> dict[str, Any]:
    """The outcome of user code that ran.

    :param ended_by: the cause for which the supervisor ended it; None when it ended by itself.
    :param out_of_memory: the kernel killed a process of it for the memory limit.
    :param disk_full: what it wrote too much of, in words; '' when it did not.
    :param limits: ``memory``, ``duration``.
    :param hint: what stands in error.json, not to be trusted.
    :param stderr: the end of its error output.
    """
    given = hint if isinstance(hint, dict) else {}
    detail = clean(given.get("detail"), _DETAIL, lines=True) or clean(stderr, _DETAIL, lines=True)
    if ended_by == "stopped":
        return outcome("stopped", "The job was stopped on request.", detail, exit_code)
    if ended_by == "timed-out":
        limit = seconds(limits["duration"])
        return outcome(
            "timed-out", f"The job ran longer than its execution duration of {limit}.", detail, exit_code
        )
    if ended_by == "out-of-disk" or disk_full:
        return outcome("out-of-disk", f"The job {disk_full}.", detail, exit_code)
    if out_of_memory or ended_by == "out-of-memory":
        limit = size(limits["memory"])
        return outcome(
            "out-of-memory", f"The job needed more memory than its limit of {limit}.", detail, exit_code
        )
    if exit_code == 0:
        return outcome("succeeded", exit_code=0)
    said = last_words(stderr)
    message = clean(given.get("message")) or f"{of_exit(exit_code)}{f' It said last: {said}' if said else ''}"
    return outcome("failed", message, detail, exit_code)
