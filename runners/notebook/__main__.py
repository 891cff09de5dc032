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
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from runners.notebook.end import Exit, NotebookFailed, Stop
from runners.notebook.inputs import check_names, load_notebook, load_parameters, typed
from runners.notebook.kernels import Kernel, choose_kernel
from runners.notebook.session import Session

logger = logging.getLogger("runners.notebook")

NOTEBOOK_RESULT = "executed.ipynb"
HTML_RESULT = "executed.html"
RENDER_SECONDS = 60.0
RENDER_SECONDS_STOPPED = 1.5  # of the grace period, when there is one


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
    notebook = load_notebook(options.notebook)
    parameters = load_parameters(options.parameters)
    with Session() as session:
        failure: NotebookFailed | None = None
        km: Any = None
        try:
            parameters = typed(notebook, parameters, options.text)
            kernel = choose_kernel(notebook, options.kernel)
            check_names(parameters, kernel.language)
            km = session.launch(kernel)
        except NotebookFailed as error:
            failure, kernel = error, Kernel("", "")

        from runners.notebook.client import run
        from runners.notebook.execution import Execution
        from runners.notebook.prepare import inject, prepare

        node = prepare(notebook, options.notebook.name)
        if failure is None:
            try:
                node = inject(node, parameters, kernel.name, kernel.language)
            except NotebookFailed as error:
                failure = error
        progress = os.environ.get("UWS_PROGRESS")
        path = options.outputs / NOTEBOOK_RESULT
        execution = Execution(node, path, Path(progress) if progress else None)
        execution.notebook_start()
        try:
            if failure is not None:
                execution.fail(failure)
            else:
                run(execution, km, stop, options.cell_timeout)
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
