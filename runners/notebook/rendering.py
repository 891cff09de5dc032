"""The executed notebook as one HTML page, for people without Jupyter."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from runners.notebook.outputs import size_of

logger = logging.getLogger(__name__)

TEXT = 512 * 1024  # characters of one text output on the page
IMAGE = 8 * 1024**2  # characters of one figure
PAGE = 48 * 1024**2  # of all outputs together


class _TookTooLong(Exception):
    pass


def render(notebook: Any, path: Path, seconds: float) -> bool:
    """Write `notebook` to `path` as HTML. A failure is logged and answered with False, no more."""
    try:
        with _Within(seconds):
            _write(notebook, path)
    except Exception as error:  # noqa: BLE001 -- whatever nbconvert or its plug-ins raise, the run is good
        logger.warning("no HTML page was made: %s: %s", type(error).__name__, error)
        with suppress(OSError):
            _part(path).unlink(missing_ok=True)
        return False
    return True


def hurry(seconds: float) -> None:
    """Give a rendering that is under way so many seconds more, and no longer."""
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        signal.setitimer(signal.ITIMER_REAL, seconds)


class _Within:
    """Raises `_TookTooLong` in the main thread when the block takes longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_error: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _alarm(self, _signum: int, _frame: FrameType | None) -> None:
        raise _TookTooLong(f"it took longer than {self._seconds:g} s")


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write(notebook: Any, path: Path) -> None:
    from nbconvert.exporters import HTMLExporter

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # nbconvert misses texts for figures there
    exporter: Any = HTMLExporter()  # type: ignore[no-untyped-call]
    # MathJax stays a link, as nbconvert has it; require.js serves live widgets only, and this page has none
    exporter.require_js_url = ""
    page, _ = exporter.from_notebook_node(_bounded(notebook), resources={"metadata": {"name": "executed"}})
    _part(path).write_text(page, encoding="utf-8", errors="replace")
    _part(path).replace(path)


def _bounded(notebook: Any) -> Any:
    """A copy of `notebook` with outputs that a browser can show."""
    copy = notebook.copy()
    copy.metadata = {key: value for key, value in notebook.metadata.items() if key != "widgets"}
    left = PAGE
    copy.cells = []
    for cell in notebook.cells:
        shown = cell.copy()
        if cell.cell_type == "code":
            shown.outputs = []
            for output in cell.outputs:
                one = _bounded_output(output, left)
                left -= size_of(one)
                shown.outputs.append(one)
        copy.cells.append(shown)
    return type(notebook)(copy)


def _bounded_output(output: Any, left: int) -> Any:
    one = output.copy()
    if output.output_type == "stream":
        one.text = _shortened(output.text, min(TEXT, left))
    elif "data" in output:
        one.data = type(output.data)()
        for kind, value in output.data.items():
            if isinstance(value, str) and kind.startswith("text/") and kind != "text/html":
                one.data[kind] = _shortened(value, min(TEXT, left))
            elif size_of(value) <= min(IMAGE, left):
                one.data[kind] = value
        if not one.data:
            one.data["text/plain"] = "[this output is too large for a page; the executed notebook has it]"
    return one


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = max(limit, 2) // 2
    gap = len(text) - 2 * half
    return f"{text[:half]}\n[… {gap} characters are in the executed notebook only …]\n{text[-half:]}"
