"""Papermill's client, made to outlive what cells do; it tells an `Execution` how each of them ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import nbformat as untyped_nbformat
import zmq
import zmq.asyncio
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import ensure_async, run_sync
from papermill.clientwrap import PapermillNotebookClient

from runners.notebook.end import Exit, NotebookFailed, Stop, sentence
from runners.notebook.execution import Execution
from runners.notebook.outputs import OutputBounds, size_of, unpack

nbformat: Any = untyped_nbformat  # it has types for a part of itself only

INTERRUPT_SECONDS = 2.0  # what an interrupted cell has to end by itself; less than half a grace period
WIDGET_STATE = 64 * 1024**2
# Jupyter's kernels drop output, and the word that a cell is over, when more than a thousand messages wait at
# either end. Ours is lengthened; at a kernel's end a burst can still lose some, and the run goes on.
QUEUED_MESSAGES = 100_000


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
        result = "the executed notebook"
        count = f"In [{cell.execution_count}] of {result}" if cell.execution_count else result
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
