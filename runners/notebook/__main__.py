"""Run a Jupyter notebook to its end and say truthfully what became of it.

This is the user's process of a notebook job::

    python -m runners.notebook NOTEBOOK --parameters PARAMETERS.json --outputs DIR
                               [--text NAME]... [--kernel NAME] [--cell-timeout SECONDS] [--no-html]

It injects the parameters ({name: value}; those of ``--text`` are a client's text, which is typed by the
notebook's parameters cell) as papermill does, runs the cells in a kernel, and
leaves in DIR ``executed.ipynb``, always, and ``executed.html``, where it can be rendered. What the
notebook prints is passed on as it is printed. The working directory of the notebook is this
process's own.

Exit codes (`runners.notebook.end.Exit`):

====  ==========================================================================================
0     every cell ran, or a cell ended the notebook with ``sys.exit()``, ``sys.exit(0)``, ``exit``
1     a cell raised, or called ``sys.exit`` with anything else
2     the file is no notebook: not readable, not JSON, not format 4, too large
3     its kernel is not installed, nor any other of its language
4     the kernel's process died (out of memory, crash, ``os._exit``)
5     a cell ran longer than ``--cell-timeout``
6     the kernel did not start
7     the parameters cannot be read, or not be given to this notebook
8     the executed notebook could not be saved
64    unusable arguments
70    our own fault
130   SIGINT and 143 SIGTERM: the running cell was interrupted and the notebook saved first
====  ==========================================================================================

``sys.exit(0)`` is how a program says "done, and well": the cell counts as completed, those after it
stay pending, and the run is a success. Papermill calls such a cell failed and exits with 0.

A failure is written to the file named by ``UWS_ERROR`` as ``{"message": one sentence, "detail": text}``.
The file named by ``UWS_PROGRESS`` gets a line ``DONE OF`` per code cell. A message counts the cells of
the notebook as its author sees them, from 1, text cells included.

The kernel is the one that the notebook names, else another of the same language (python3 first),
else none. It is reached through Unix sockets in a directory that only we can enter, so that it
needs no network and no other user of the machine can listen; only where no directory has a path
short enough for a socket (107 bytes) is TCP on 127.0.0.1 taken. The kernel is launched before
papermill is imported, as both take about half a second.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn, Self

from job_templates.notebook import MAX_BYTES, notebook_language, read_notebook
from job_templates.notebook_parameters import read_parameters
from job_templates.notebook_values import check_required, from_text
from runners.notebook.end import Exit, NotebookFailed, Stop
from uws_server.domain.errors import BadRequest

logger = logging.getLogger("runners.notebook")

NOTEBOOK_RESULT = "executed.ipynb"
HTML_RESULT = "executed.html"
SOCKET_PATH_BYTES = 107
RENDER_SECONDS = 60.0
RENDER_SECONDS_STOPPED = 1.5  # of the grace period, when there is one
KERNEL_NICENESS = 10  # only within the job, where control groups share out the processors
PARAMETERS_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installed kernel: its name and the language that it says it speaks."""

    name: str
    language: str


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = _Arguments(prog="python -m runners.notebook", description="Run a Jupyter notebook.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--parameters", type=Path, help="JSON file {name: value}")
    parser.add_argument("--outputs", type=Path, required=True, help="directory for the results")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="NAME",
        help="this parameter's value is text to be typed",
    )
    parser.add_argument("--kernel", help="use this kernel, whatever the notebook names")
    parser.add_argument("--cell-timeout", type=float, default=0.0, metavar="SECONDS", help="0 is no limit")
    parser.add_argument("--no-html", action="store_true", help="do not render executed.html")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    stop = Stop()
    stop.install()
    # The outputs are our working directory: a file json.py there must not become our json.
    here = Path.cwd()
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry) not in (here, options.outputs)]
    try:
        failure = _run(options, stop)
    except NotebookFailed as error:
        failure = error
    except Exception as error:  # the last place where our own fault can be told apart from the user's
        logger.exception("fault in the notebook runner")
        failure = NotebookFailed(
            Exit.INTERNAL, f"The notebook runner failed: {type(error).__name__}: {error}"
        )
    if failure is None:
        return Exit.OK
    _report(failure)
    return failure.code


def _run(options: argparse.Namespace, stop: Stop) -> NotebookFailed | None:
    notebook = _load(options.notebook)
    parameters = _load_parameters(options.parameters)
    with _Session() as session:
        failure: NotebookFailed | None = None
        km: Any = None
        try:
            parameters = _typed(notebook, parameters, options.text)
            kernel = choose_kernel(notebook, options.kernel)
            _check_names(parameters, kernel.language)
            km = session.launch(kernel)
        except NotebookFailed as error:
            failure, kernel = error, Kernel("", "")

        from runners.notebook import engine

        node = engine.prepare(notebook, options.notebook.name)
        if failure is None:
            try:
                node = engine.inject(node, parameters, kernel.name, kernel.language)
            except NotebookFailed as error:
                failure = error
        progress = os.environ.get("UWS_PROGRESS")
        path = options.outputs / NOTEBOOK_RESULT
        execution = engine.Execution(node, path, Path(progress) if progress else None)
        execution.notebook_start()
        try:
            if failure is not None:
                execution.fail(failure)
            else:
                engine.run(execution, km, stop, options.cell_timeout)
        finally:
            execution.notebook_complete()
    failure = execution.failure
    if not options.no_html:
        from runners.notebook.rendering import hurry, render

        # a signal that comes now changes no outcome: what was to be run has been run, and is saved
        stop.wake = lambda: hurry(RENDER_SECONDS_STOPPED)
        seconds = RENDER_SECONDS if stop.signal is None else RENDER_SECONDS_STOPPED
        render(execution.nb, options.outputs / HTML_RESULT, seconds)
        stop.wake = lambda: None
    return failure


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return read_notebook(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise NotebookFailed(Exit.NOT_A_NOTEBOOK, f"The notebook cannot be read: {error.strerror}") from error
    except ValueError as error:
        text = str(error)
        raise NotebookFailed(Exit.NOT_A_NOTEBOOK, text[:1].upper() + text[1:]) from error


def _load_parameters(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            parameters = json.loads(file.read(PARAMETERS_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise NotebookFailed(Exit.PARAMETERS, f"The parameters cannot be read: {error}") from error
    if not isinstance(parameters, dict):
        raise NotebookFailed(Exit.PARAMETERS, "The parameters are not an object of names and values")
    return parameters


def _typed(notebook: dict[str, Any], parameters: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """The parameters, those that came as text typed as the notebook's parameters cell has them."""
    if not texts:
        return parameters
    try:
        known = read_parameters(json.dumps(notebook).encode())
        typed = {name: from_text(known, name, str(parameters.get(name, ""))) for name in texts}
        check_required(known, parameters)
    except (ValueError, BadRequest) as error:
        text = str(error)
        raise NotebookFailed(Exit.PARAMETERS, text[:1].upper() + text[1:]) from error
    return parameters | typed


def _check_names(parameters: dict[str, Any], language: str) -> None:
    """Papermill writes ``name = value`` without looking at the name."""
    for name in parameters:
        if not name.isidentifier() or (language.casefold() == "python" and iskeyword(name)):
            raise NotebookFailed(Exit.PARAMETERS, f"{name!r} cannot be the name of a parameter")


def choose_kernel(notebook: dict[str, Any], wanted: str | None = None) -> Kernel:
    """The kernel to run `notebook` in.

    `wanted` is taken or refused, as somebody asked for just that one. A notebook that names neither
    a kernel nor a language is taken for Python, as Jupyter does.

    :raises NotebookFailed: none fits; the message names what was wanted and what there is.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    specs = KernelSpecManager().get_all_specs()
    installed = {name: Kernel(name, str(one["spec"].get("language", ""))) for name, one in specs.items()}
    if wanted is not None:
        name, language = wanted, ""
    else:
        block = notebook["metadata"].get("kernelspec")
        named = block.get("name") if isinstance(block, dict) else None
        name, language = (named if isinstance(named, str) else ""), notebook_language(notebook)
        if not name and not language:
            language = "python"
    if name in installed:
        return installed[name]
    # 'python3' first, then by name, so that the choice is always the same
    for candidate in sorted(installed.values(), key=lambda one: (one.name != "python3", one.name)):
        if language and candidate.language.casefold() == language.casefold():
            if name:
                text = "kernel %s is not installed; using %s, which speaks %s too"
                logger.warning(text, name, candidate.name, language)
            return candidate
    asked = f"the kernel {name!r}" if name else "a kernel"
    speaks = f" for {language}" if language else ""
    have = ", ".join(f"{one.name} ({one.language})" for one in installed.values()) or "none"
    message = f"The notebook needs {asked}{speaks}, which is not installed here; installed: {have}"
    raise NotebookFailed(Exit.NO_KERNEL, message)


class _Session:
    """The directory of the kernel's sockets and connection file, and the kernel's process."""

    def __init__(self) -> None:
        self._directory = ""
        self._km: Any = None

    def __enter__(self) -> Self:
        temporary = tempfile.gettempdir()
        longest = len("/jupyter-12345678/kernel-ipc-5")
        for base in dict.fromkeys((temporary, "/tmp")):  # mkdtemp makes it ours alone
            self._ipc = len(os.fsencode(base)) + longest <= SOCKET_PATH_BYTES
            if self._ipc:
                with suppress(OSError):
                    self._directory = tempfile.mkdtemp(prefix="jupyter-", dir=base)
                    break
        else:
            self._ipc = False
            self._directory = tempfile.mkdtemp(prefix="jupyter-")
        os.environ["JUPYTER_RUNTIME_DIR"] = self._directory
        os.environ.setdefault("HOME", temporary)
        for name, folder in (
            ("IPYTHONDIR", "ipython"),
            ("MPLCONFIGDIR", "matplotlib"),
            ("JUPYTER_CONFIG_DIR", "jupyter/config"),
            ("JUPYTER_DATA_DIR", "jupyter/data"),
        ):
            os.environ.setdefault(name, str(Path(temporary) / folder))
        os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # jupyter_core warns where it is not set
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # so does ipykernel's debugger
        return self

    def launch(self, kernel: Kernel) -> Any:
        """Start the kernel's process, without waiting for it.

        :raises NotebookFailed: it cannot be started.
        """
        from jupyter_client.manager import AsyncKernelManager
        from jupyter_core.utils import run_sync

        transport = "ipc" if self._ipc else "tcp"
        file = str(Path(self._directory) / "kernel.json")
        km = AsyncKernelManager(kernel_name=kernel.name, transport=transport, connection_file=file)
        extra = ["--HistoryManager.hist_file=:memory:"] if km.ipykernel else []

        async def start() -> None:
            await km.start_kernel(extra_arguments=extra)

        self._km = km
        try:
            run_sync(start)()
        except (OSError, RuntimeError) as error:
            message = f"The kernel {kernel.name!r} cannot be started: {error}"
            raise NotebookFailed(Exit.KERNEL_START, message) from error
        pid = getattr(km.provisioner, "pid", None)
        if pid:  # a fork bomb must leave us the time to end it and to save
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, KERNEL_NICENESS)
        return km

    def __exit__(self, *_error: object) -> None:
        if self._km is not None and self._km.has_kernel:
            from jupyter_core.utils import run_sync

            async def end() -> None:
                await self._km.shutdown_kernel(now=True)

            with suppress(RuntimeError, OSError):
                run_sync(end)()
        shutil.rmtree(self._directory, ignore_errors=True)


def _report(failure: NotebookFailed) -> None:
    """Tell the log, and the error file that becomes the job's error summary."""
    text = failure.message + (f"\n\n{failure.detail}" if failure.detail else "")
    with suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    path = os.environ.get("UWS_ERROR")
    if path:
        part = Path(path + ".part")
        with suppress(OSError):
            part.write_text(json.dumps({"message": failure.message, "detail": failure.detail}))
            part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
