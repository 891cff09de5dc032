"""How the run of a notebook can end: its exit codes, the failure that carries one, and signals."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from enum import IntEnum
from types import FrameType

MESSAGE_CHARACTERS = 300
DETAIL_CHARACTERS = 32 * 1024


class Exit(IntEnum):
    """The exit codes of ``runners.notebook``."""

    OK = 0  # every cell ran, or the notebook ended itself with sys.exit(0)
    CELL = 1  # a cell raised, or called sys.exit with anything but 0
    NOT_A_NOTEBOOK = 2  # the file cannot be read, or is no notebook of format 4
    NO_KERNEL = 3  # neither the kernel that it names nor one of its language is installed
    KERNEL_DIED = 4  # the kernel's process ended while a cell was running
    TIMED_OUT = 5  # a cell ran longer than --cell-timeout
    KERNEL_START = 6  # the kernel did not start
    PARAMETERS = 7  # the parameters cannot be read, or not be given to this notebook
    NOT_SAVED = 8  # the executed notebook could not be written, for example because the disk is full
    USAGE = 64  # unusable arguments
    INTERNAL = 70  # our own fault
    INTERRUPTED = 130  # SIGINT; the notebook was saved first
    TERMINATED = 143  # SIGTERM; the notebook was saved first


class NotebookFailed(Exception):
    """The run is over, and not as its owner wished."""

    def __init__(self, code: Exit, message: str, detail: str = "") -> None:
        self.code = code
        self.message = sentence(message)
        self.detail = plain(detail)
        super().__init__(self.message)


class Stop:
    """Remembers the first SIGTERM or SIGINT; later ones change nothing.

    A signal calls ``wake``, which whatever takes long must set. It raises nothing: an exception that
    comes up just anywhere may be swallowed, by an event loop's callback for example.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.wake: Callable[[], object] = lambda: None

    def install(self) -> None:
        """Take the two signals over from Python."""
        signal.signal(signal.SIGTERM, self._arrived)
        signal.signal(signal.SIGINT, self._arrived)

    def _arrived(self, signum: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signum
            self.wake()

    def failure(self, where: str = "") -> NotebookFailed:
        """What the signal makes of the run; `where` says which cell was running, if one was."""
        name = "interrupted" if self.signal == signal.SIGINT else "stopped"
        code = Exit.INTERRUPTED if self.signal == signal.SIGINT else Exit.TERMINATED
        return NotebookFailed(code, f"The notebook was {name} {where or 'while no cell was running'}")


_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def plain(text: str) -> str:
    """`text` without terminal colours and control characters; of a long one, its end."""
    if len(text) > 4 * DETAIL_CHARACTERS:
        text = text[-4 * DETAIL_CHARACTERS :]
    text = _CONTROL.sub("", _ANSI.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return text if len(text) <= DETAIL_CHARACTERS else "[…]\n" + text[-DETAIL_CHARACTERS:]


def sentence(text: str) -> str:
    """`text` as one line of at most 300 characters, without control characters."""
    line = " ".join(_CONTROL.sub(" ", _ANSI.sub("", text[: 8 * MESSAGE_CHARACTERS])).split())
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"
