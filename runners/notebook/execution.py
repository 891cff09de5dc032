"""The state of a run: cell states that tell the truth whatever ends it, saves, and progress.

Plain papermill leaves every cell ``completed`` when the kernel dies, when a cell takes too long
and on SIGINT, and saves nothing on SIGTERM (measured with 2.7). Here a cell's status is set
by what happened to it:

===========  =====================================================================
completed    it ran to its end, or ended the notebook with ``sys.exit(0)``
failed       it raised, was running when the kernel died, or took too long
interrupted  it was running when the run was stopped from outside
running      only in a notebook that was saved while it ran (after SIGKILL, say)
pending      it was never started
===========  =====================================================================

The notebook's ``metadata.papermill.exception`` is True unless the run went well. The file is
replaced atomically, after cells and every half minute within long ones, but only as often as
keeps saving below a twentieth of the time: rewriting a large notebook after every cell would
cost the square of its length.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import nbformat as untyped_nbformat
from papermill.engines import NotebookExecutionManager
from papermill.execute import ERROR_MARKER_TAG

from runners.notebook.end import Exit, NotebookFailed

nbformat: Any = untyped_nbformat  # it has types for a part of itself only

SAVE_SHARE = 20  # saving may take one part in so many of the time
SAVE_SECONDS = 30.0  # within a long cell
INTERRUPTED = "interrupted"
SKIP_TAG = "skip-execution"  # nbclient's


class Execution(NotebookExecutionManager):  # type: ignore[misc]  # papermill has no types
    """The state of one run: statuses, saves, progress, and in the end what went wrong, if anything.

    ``progress`` counts the code cells of the author's notebook that have something to run; the
    injected cell is ours and does not count.
    """

    def __init__(self, node: Any, path: Path, progress: Path | None) -> None:
        self._numbers = [cell.metadata.get("papermill", {}).get("number") for cell in node.cells]
        super().__init__(node, output_path=str(path), progress_bar=False)
        self.failure: NotebookFailed | None = None
        self.before_save: Callable[[], None] = lambda: None
        self.error_index: int | None = None
        self._path = path
        self._progress = progress
        self._counted = [
            number is not None and cell.cell_type == "code" and bool(cell.source.strip())
            and SKIP_TAG not in cell.metadata["tags"]
            for number, cell in zip(self._numbers, node.cells, strict=True)
        ]  # fmt: skip
        self._done = 0
        self._saved = self._cost = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._save_error: OSError | None = None

    def where(self, index: int) -> str:
        """How a message names a cell."""
        number = self._numbers[index]
        return "the cell of injected parameters" if number is None else f"cell {number} of the notebook"

    def notebook_start(self, **kwargs: Any) -> None:
        """All cells are pending; the progress is 0 of all."""
        super().notebook_start(**kwargs)
        self._tell_progress()

    def cell_start(self, cell: Any, *_args: Any, **_kwargs: Any) -> None:
        """A cell starts."""
        cell.metadata.papermill.update(
            start_time=self.now().isoformat(), status=self.RUNNING, exception=False
        )
        self._touch()

    def cell_complete(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        """A cell is over; ``status`` in `kwargs` says how, by default well."""
        status, mine, now = kwargs.get("status", self.COMPLETED), cell.metadata.papermill, self.now()
        mine.update(end_time=now.isoformat(), status=status, exception=status != self.COMPLETED)
        started = type(now).fromisoformat(mine["start_time"])
        mine["duration"] = (now - started).total_seconds()
        if cell_index is not None and self._counted[cell_index] and status == self.COMPLETED:
            self._done += 1
            self._tell_progress()
        self._touch()

    def fail(self, failure: NotebookFailed, cell: Any = None, cell_index: int | None = None) -> None:
        """The run ends here; the cell that was running, if any, gets the status that it deserves."""
        self.failure = self.failure or failure
        self.nb.metadata.papermill["exception"] = True
        if cell is not None:
            stopped = failure.code in (Exit.INTERRUPTED, Exit.TERMINATED)
            self.error_index = cell_index
            self.cell_complete(cell, cell_index, status=INTERRUPTED if stopped else self.FAILED)

    def notebook_complete(self, **_kwargs: Any) -> None:
        """The run is over: a banner for a failure, and the last save.

        :raises NotebookFailed: the notebook could not be saved.
        """
        if self._timer is not None:
            self._timer.cancel()
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        if self.failure is not None:
            self._banner(self.failure.message)
        self.save()
        if self._save_error is not None:
            reason = self._save_error.strerror or str(self._save_error)
            message = f"The executed notebook could not be saved: {reason}"
            raise NotebookFailed(Exit.NOT_SAVED, message)

    def save(self, **_kwargs: Any) -> None:
        """Replace the file. A failure is remembered, and forgotten by the next save that works."""
        self._timer = None
        began = monotonic()
        self.before_save()
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            part.write_text(nbformat.v4.writes(self.nb), encoding="utf-8", errors="replace")
            part.replace(self._path)
            self._save_error = None
        except OSError as error:
            self._save_error = error
            with suppress(OSError):
                part.unlink(missing_ok=True)
        self._saved = monotonic()
        self._cost = self._saved - began

    def autosave_cell(self) -> None:
        """Within a cell, after each message: the file is at most half a minute old, costs permitting."""
        if monotonic() - self._saved >= max(SAVE_SECONDS, SAVE_SHARE * self._cost):
            self.save()

    def _touch(self) -> None:
        """Something has changed: save now, or as soon as that is not too dear."""
        due = self._saved + SAVE_SHARE * self._cost - monotonic()
        if due <= 0:
            if self._timer is not None:
                self._timer.cancel()
            self.save()
        elif self._timer is None:
            with suppress(RuntimeError):  # no loop, no cell is running: the last save is near
                self._timer = asyncio.get_running_loop().call_later(due, self.save)

    def _tell_progress(self) -> None:
        if self._progress is None:
            return
        with suppress(OSError), self._progress.open("a", encoding="ascii") as file:
            file.write(f"{self._done} {sum(self._counted)}\n")

    def _banner(self, message: str) -> None:
        """Say at the top what went wrong, with a link to the cell; papermill's own words are vaguer."""
        style = 'style="color: #b00020; font-weight: bold"'
        top = f"<span {style}>{html.escape(message)}</span>"
        cells = []
        if self.error_index is not None:
            top += ' (<a href="#papermill-error-cell">go to the cell</a>)'
            anchor = f'<span id="papermill-error-cell" {style}>The run ended in this cell:</span>'
            cells.append((self.error_index, anchor))
        cells.append((0, top))
        for index, text in cells:
            cell = nbformat.v4.new_markdown_cell(text, metadata={"tags": [ERROR_MARKER_TAG]})
            self.nb.cells.insert(index, cell)
