"""Papermill with cell states that tell the truth, whatever ends the run.

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
import logging
import re
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import nbformat as untyped_nbformat
import zmq
import zmq.asyncio
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import ensure_async, run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.exceptions import PapermillException
from papermill.execute import ERROR_MARKER_TAG, remove_error_markers
from papermill.parameterize import parameterize_notebook
from papermill.version import version as papermill_version

from runners.notebook.end import Exit, NotebookFailed, Stop, sentence
from runners.notebook.outputs import OutputBounds, size_of, unpack

nbformat: Any = untyped_nbformat  # it has types for a part of itself only

logger = logging.getLogger(__name__)

SAVE_SHARE = 20  # saving may take one part in so many of the time
SAVE_SECONDS = 30.0  # within a long cell
INTERRUPT_SECONDS = 2.0  # what an interrupted cell has to end by itself; less than half a grace period
WIDGET_STATE = 64 * 1024**2
# Jupyter's kernels drop output, and the word that a cell is over, when more than a thousand messages wait at
# either end. Ours is lengthened; at a kernel's end a burst can still lose some, and the run goes on.
QUEUED_MESSAGES = 100_000

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
INTERRUPTED = "interrupted"
SKIP_TAG = "skip-execution"  # nbclient's


def prepare(notebook: dict[str, Any], name: str) -> Any:
    """The notebook as nbformat's node in the newest format, with the metadata papermill expects.

    :raises NotebookFailed: nbformat cannot make sense of it.
    """
    try:
        node = nbformat.from_dict(notebook)
        # each cell is known by its place in the file that its author sees; parameters are injected later
        for number, cell in enumerate(node.cells, 1):
            cell.metadata.setdefault("tags", [])
            cell.metadata["papermill"] = {"number": number}
        node = nbformat.v4.upgrade(node)
        _name_cells(node)
    except Exception as error:
        raise NotebookFailed(Exit.NOT_A_NOTEBOOK, f"The notebook cannot be used: {error}") from error
    node = remove_error_markers(node)
    node.metadata["papermill"] = {
        "default_parameters": {},
        "parameters": {},
        "environment_variables": {},
        "version": papermill_version,
        "input_path": name,
        "output_path": "executed.ipynb",
    }
    return node


def _name_cells(node: Any) -> None:
    """Give each cell an id that is valid and its own; readers refuse a notebook of format 4.5 without."""
    seen: set[str] = set()
    for cell in node.cells:
        mine = cell.get("id")
        if not isinstance(mine, str) or not _ID.fullmatch(mine) or mine in seen:
            cell["id"] = uuid.uuid4().hex[:8]
        seen.add(cell["id"])


def inject(node: Any, parameters: dict[str, Any], kernel: str, language: str) -> Any:
    """`node` with papermill's cell of parameters behind its own.

    :raises NotebookFailed: papermill cannot write such parameters in the notebook's language.
    """
    if not parameters:
        return node
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of a missing tag, which is no fault
    try:
        return parameterize_notebook(node, parameters, kernel_name=kernel, language=language)
    except (PapermillException, NotImplementedError) as error:
        message = f"Parameters cannot be given to a notebook in {language}: {error}"
        raise NotebookFailed(Exit.PARAMETERS, message) from error


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


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """Runs the cells in a kernel that was launched before, and reports to an `Execution`."""

    clear_before_next_output: bool
    store_widget_state: Any  # a trait

    def __init__(self, execution: Execution, km: Any, stop: Stop, cell_timeout: float) -> None:
        # The end of a cell's output may come late when there is much of it: wait a minute for it, and
        # then go on, for the cell itself has ended well.
        super().__init__(
            execution, km=km, raise_on_iopub_timeout=False, iopub_timeout=60, startup_timeout=300
        )
        self._execution = execution
        self._stop = stop
        self._cell_timeout = cell_timeout
        self._bounds = OutputBounds(nbformat.v4.new_output)
        self._reply: dict[str, Any] = {}
        self._widgets = 0
        km.session.unpack = unpack  # the client shares the session
        self._logs: dict[str, BinaryIO] = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        self.on_cell_executed = self._executed
        execution.before_save = self._bounds.write

    def execute(self, **kwargs: Any) -> Any:
        """Run all cells, or up to the first one that does not run well, and end the kernel."""
        self.reset_execution_trackers()
        run_sync(self._execute)()
        return self.nb

    async def _execute(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop.wake = lambda: loop.call_soon_threadsafe(stopped.set)
        try:
            if await self._connect(stopped):
                await self._run_cells(stopped)
        finally:
            # From here on the outcome stands: a late signal must not break the kernel's end off.
            self._stop.wake = lambda: None
            self._bounds.write()
            await self._end_kernel()

    async def _connect(self, stopped: asyncio.Event) -> bool:
        """Wait for the kernel; False if a signal comes first."""
        start = asyncio.ensure_future(self._start_client())
        if await self._first(start, stopped, None):
            await start  # which raises, if it failed
            return True
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        self._execution.fail(self._stop.failure())
        return False

    async def _start_client(self) -> None:
        """What nbclient's own start of a client does, with a longer queue."""
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.RCVHWM, QUEUED_MESSAGES)
        self.kc = self.km.client(context=context)
        self.kc.start_channels()
        await self.kc.wait_for_ready(timeout=self.startup_timeout)
        self.kc.allow_stdin = False

    async def _first(self, task: asyncio.Future[Any], stopped: asyncio.Event, seconds: float | None) -> bool:
        """Whether `task` is done before a signal comes and within so many seconds."""
        stopper = asyncio.ensure_future(stopped.wait())
        if self._stop.signal is not None:
            stopped.set()
        await asyncio.wait({task, stopper}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stopper.cancel()
        return task.done() and self._stop.signal is None

    async def _run_cells(self, stopped: asyncio.Event) -> None:
        info = await self.async_wait_for_reply(await ensure_async(self.kc.kernel_info()))
        if info is not None and "language_info" in info["content"]:
            self.nb.metadata["language_info"] = info["content"]["language_info"]
        for index, cell in enumerate(self.nb.cells):
            if self._stop.signal is not None:
                self._execution.fail(self._stop.failure())
                break
            if not await self._run_cell(cell, index, stopped):
                break
        with suppress(TypeError, KeyError, AttributeError):  # a widget's odd state is no failure
            self.set_widgets_metadata()

    async def _end_kernel(self) -> None:
        """End the kernel, with time for its exit handlers after a good run, and close the sockets."""
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if self.km is not None and await ensure_async(self.km.is_alive()):
            now = self._execution.failure is not None
            with suppress(RuntimeError):  # it ended meanwhile
                await ensure_async(self.km.shutdown_kernel(now=now))
        if self.kc is not None:
            self.kc.stop_channels()

    async def _run_cell(self, cell: Any, index: int, stopped: asyncio.Event) -> bool:
        """Run one cell; True if the next one is to follow."""
        execution, where = self._execution, self._execution.where(index)
        self._reply = {}
        self._bounds.begin()
        execution.cell_start(cell, index)
        task = asyncio.ensure_future(self.async_execute_cell(cell, index))
        await self._first(task, stopped, self._cell_timeout or None)
        failure: NotebookFailed | None = None
        if self._stop.signal is not None:
            await self._interrupt(task)
            failure = self._stop.failure(f"while {where} was running")
        elif not task.done():
            await self._interrupt(task)
            message = f"{_capital(where)} ran longer than its limit of {self._cell_timeout:g} s"
            failure = NotebookFailed(Exit.TIMED_OUT, message)
            self._add_error(cell, "CellTimeoutError", failure.message)
        else:
            try:
                task.result()
            except CellExecutionError as error:
                failure = self._raised(cell, where, error)
            except DeadKernelError:
                failure = NotebookFailed(Exit.KERNEL_DIED, await self._how_it_died(where))
                self._add_error(cell, "DeadKernelError", failure.message)
        if failure is not None:
            execution.fail(failure, self.nb.cells[index], index)
            return False
        execution.cell_complete(self.nb.cells[index], index)
        return not self._ended_itself()

    async def _interrupt(self, task: asyncio.Future[Any]) -> None:
        """Interrupt the running cell, and give it a moment to say where it was."""
        with suppress(Exception):  # the kernel may be gone already
            await ensure_async(self.km.interrupt_kernel())
        await asyncio.wait({task}, timeout=INTERRUPT_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _raised(self, cell: Any, where: str, error: CellExecutionError) -> NotebookFailed | None:
        """What an exception in a cell means for the run: None for ``sys.exit(0)``."""
        if error.ename == "SystemExit":
            if self._ended_itself():
                return None
            what = f"called sys.exit({error.evalue})"
        else:
            what = f"raised {error.ename}" + (f": {error.evalue}" if error.evalue else "")
        lines = self._reply.get("traceback") or [str(what)]
        count = f"In [{cell.execution_count}] of executed.ipynb" if cell.execution_count else "executed.ipynb"
        if not any(output.output_type == "error" for output in cell.outputs):  # lost on its way
            self._add_error(cell, error.ename, error.evalue, lines)
        detail = f"{_capital(where)}, {count}:\n\n" + "\n".join(lines)
        return NotebookFailed(Exit.CELL, f"{_capital(where)} {what}", detail)

    def _ended_itself(self) -> bool:
        """Whether the cell asked for a good end of the whole: ``sys.exit()``, ``sys.exit(0)``, ``exit``."""
        if any(one.get("source") == "ask_exit" for one in self._reply.get("payload") or []):
            return True
        return self._reply.get("ename") == "SystemExit" and self._reply.get("evalue") in ("", "0", "None")

    async def _how_it_died(self, where: str) -> str:
        code = await self.km.provisioner.poll() if self.km and self.km.provisioner else None
        while_running = f"while {where} was running"
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", most often because more memory was needed than the job has" if -code == 9 else ""
            return f"The kernel was killed by {name} {while_running}{hint}"
        return f"The kernel ended with exit code {code} {while_running}"

    def _add_error(self, cell: Any, name: str, value: str, lines: list[str] | None = None) -> None:
        cell.outputs.append(
            nbformat.v4.new_output("error", ename=name, evalue=sentence(value), traceback=lines or [value])
        )

    def _executed(self, *, execute_reply: dict[str, Any] | None, **_kwargs: Any) -> None:
        """Hook of nbclient: the kernel's reply to the cell."""
        self._reply = (execute_reply or {}).get("content", {})
        if self._reply.get("status") == "error":
            self._bounds.trim("error", self._reply)

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take one message of the running cell in, cut to what is kept; what is printed goes on live."""
        kind, content = msg["msg_type"], msg["content"]
        if kind == "stream":
            self._log(content["name"], content["text"])
        else:
            self._bounds.trim(kind, content)
        return super().process_message(msg, cell, cell_index)

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """Turn a message into an output."""
        if self.output_hook_stack[msg["parent_header"].get("msg_id")]:  # an Output widget takes it
            return super().output(outs, msg, display_id, cell_index)
        if self.clear_before_next_output:
            self._bounds.cleared(outs)
        if msg["msg_type"] != "stream":
            if msg["msg_type"] != "error" and self._bounds.full(outs) and not self.clear_before_next_output:
                return None
            return super().output(outs, msg, display_id, cell_index)
        if self.clear_before_next_output:
            outs[:] = []
            self.clear_display_id_mapping(cell_index)
            self.clear_before_next_output = False
        self._bounds.stream(outs, msg["content"]["name"], msg["content"]["text"])
        return None

    def clear_output(self, outs: list[Any], msg: dict[str, Any], cell_index: int) -> None:
        """The cell wants its output so far gone."""
        if not msg["content"].get("wait"):
            self._bounds.cleared(outs)
        super().clear_output(outs, msg, cell_index)

    def handle_comm_msg(self, outs: list[Any], msg: dict[str, Any], cell_index: int) -> None:
        """A widget's message; the state of widgets is kept up to a bound, then not at all."""
        if self.store_widget_state:
            self._widgets += size_of(msg["content"]) + size_of(msg.get("buffers") or [])
            if self._widgets > WIDGET_STATE:
                self.store_widget_state = False
                self.widget_state.clear()
                self.widget_buffers.clear()
        super().handle_comm_msg(outs, msg, cell_index)

    def _log(self, name: str, text: str) -> None:
        """Pass on what the notebook prints, so that the job's log is live."""
        stream = self._logs.get(name)
        if stream is None:
            return
        try:
            stream.write(text.encode("utf-8", errors="replace"))
            stream.flush()
        except OSError:  # nobody reads the log any more; the notebook goes on
            del self._logs[name]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def run(execution: Execution, km: Any, stop: Stop, cell_timeout: float) -> None:
    """Run the notebook of `execution` in the kernel of `km`; ``execution.failure`` says how it went."""
    client = Client(execution, km, stop, cell_timeout)
    try:
        client.execute()
    except NotebookFailed as failure:
        execution.fail(failure)
    except (RuntimeError, OSError) as error:
        if execution.failure is None:
            message = f"The kernel did not start, or stopped before a cell ran: {error}"
            execution.fail(NotebookFailed(Exit.KERNEL_START, message, repr(error)))
