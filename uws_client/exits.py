"""How `uws-job` ends: one sentence for what went wrong, and the exit codes."""

from __future__ import annotations

import os
from typing import Any

import click

from uws_client.errors import Damaged, NotUws, Refused, Unfinished, Unreachable, UwsError
from uws_client.printing import printable

EXIT_CODES = """
Exit codes:

\b
  0    done; after waiting: the job is COMPLETED
  1    after waiting: the job is in ERROR
  2    the command line was wrong
  3    after waiting: the job was ABORTED
  4    after waiting: it has not ended (--timeout is over, or it is HELD)
  5    the server cannot be reached, or is no UWS server
  6    the server refused
  7    a result did not arrive whole, or cannot be written
  130  interrupted with Ctrl-C; a job goes on
"""

INTERRUPTED = 130

_BY_PHASE = {"COMPLETED": 0, "ARCHIVED": 0, "ERROR": 1, "ABORTED": 3}
_BY_ERROR: dict[type[UwsError], int] = {
    Unfinished: 4,
    Unreachable: 5,
    NotUws: 5,
    Refused: 6,
    Damaged: 7,
    UwsError: 2,
}


def of_phase(phase: str) -> int:
    """The exit code after waiting for a job that is in this phase now."""
    return _BY_PHASE.get(phase, 4)


class Program(click.Group):
    """A group that says what went wrong in one sentence and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UwsError as error:
            click.echo(f"uws-job: {printable(str(error))}", err=True)
            ctx.exit(next(code for kind, code in _BY_ERROR.items() if isinstance(error, kind)))
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            what = error.filename or "what was to be printed"
            click.echo(f"uws-job: {what} cannot be written: {error.strerror or error}", err=True)
            if not error.filename:  # else Python tries once more at its end, and that decides the exit code
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(7)
        except KeyboardInterrupt:
            click.echo("\nuws-job: interrupted", err=True)
            ctx.exit(INTERRUPTED)
