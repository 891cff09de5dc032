"""`uws-job submit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uws_client.commands.follow import wait_for
from uws_client.errors import Refused, UwsError
from uws_client.exits import INTERRUPTED
from uws_client.options import connect, json_option, need_server, seconds, server_option, wait_options
from uws_client.printing import cut, duration, print_json, printable

if TYPE_CHECKING:
    from uws_client.protocol import FileValue

_RUN_ID_CHARS = 64
"""What our own server takes."""


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVICE] [NAME=VALUE | NAME=@FILE]...")
@click.option("--cpu", metavar="CORES", help="Cores, e.g. 0.5 or 4, where the service takes CPU.")
@click.option("--memory", metavar="SIZE", help="Memory, e.g. 4GiB, where the service takes MEMORY.")
@click.option("--time", "asked", metavar="TIME", help="Stop the job after this time, e.g. 30min, 2h.")
@click.option(
    "--run-id",
    metavar="TEXT",
    help="A name of your own, shown in lists; default, where SERVICE is named: the name of the file sent.",
)
@click.option("--run/--no-run", default=True, help="Run it at once (default), or leave it PENDING.")
@click.option("--wait/--detach", default=False, help="Wait for its end, or leave at once (default).")
@wait_options
@server_option
@json_option
def submit(
    arguments: tuple[str, ...],
    cpu: str | None,
    memory: str | None,
    asked: str | None,
    run_id: str | None,
    run: bool,
    wait: bool,
    timeout: str | None,
    quiet: bool,
    server: str,
    as_json: bool,
) -> None:
    """Make a job and print its address.

    NAME=@FILE sends a file along; NAME=@@TEXT is the text @TEXT.

    \b
    uws-job submit notebook notebook=@analysis.ipynb p.n=3 --wait
    """  # noqa: D301  # click's mark for lines that are not to be wrapped
    from uws_client.progress import Progress
    from uws_client.services import Server
    from uws_client.sheets import described

    if wait and not run:
        raise click.UsageError("--wait with --no-run would wait for ever: nothing would start the job")
    service = arguments[0] if arguments and "=" not in arguments[0] else ""
    texts, files = _parameters(arguments[1 if service else 0 :])
    texts[:0] = [(name, value) for name, value in (("CPU", cpu), ("MEMORY", memory)) if value is not None]
    limit = seconds(asked, "--time")
    until = seconds(timeout, "--timeout")
    need_server(server)
    jobs = Server(server, connect(server)).job_list(service)
    try:
        with Progress() as progress:
            sent = None if quiet else lambda done, of: progress.bytes("sending", done, of)
            name = _default_run_id(service, files) if run_id is None else run_id
            job = jobs.create(texts, files, run=run, run_id=name, duration=limit, sent=sent)
    except KeyboardInterrupt:
        click.echo(
            "\nuws-job: interrupted while sending; whether a job was made shows:  uws-job list", err=True
        )
        sys.exit(INTERRUPTED)
    except Refused as refused:
        if forgotten := [f"{name}=@{value}" for name, value in texts if _names_file(value)]:
            hint = f"to send a file along write: {' '.join(forgotten)}"
            raise Refused(f"{refused} ({hint})", refused.status) from refused
        raise
    if not as_json:
        click.echo(printable(job.url))
    if limit is not None:
        try:
            _tell_granted(limit, job.read().duration)
        except UwsError as error:  # the job is made: this is no failure of the command
            click.echo(f"uws-job: what time was granted is not known: {printable(str(error))}", err=True)
    if wait:
        sys.exit(wait_for(job, until, quiet=quiet, as_json=as_json))
    if as_json:
        print_json(described(job.read()))


def _parameters(arguments: tuple[str, ...]) -> tuple[list[tuple[str, str]], list[FileValue]]:
    """What is sent as text, and what as files.

    :raises click.UsageError: an argument is no parameter.
    """
    from uws_client.arguments import read_parameter
    from uws_client.protocol import FileValue

    texts: list[tuple[str, str]] = []
    files: list[FileValue] = []
    for argument in arguments:
        try:
            name, value = read_parameter(argument)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if isinstance(value, Path):
            files.append(FileValue(name, value))
        else:
            texts.append((name, value))
    return texts, files


def _default_run_id(service: str, files: list[FileValue]) -> str:
    """The name of the file that the job is about: that of the service's namesake, else the first.

    Only where a service is named, as at our own server: what others make of a run id is not known.
    """
    if not service or not files:
        return ""
    name = next((file for file in files if file.name == service), files[0]).path.name
    return cut(printable(name), _RUN_ID_CHARS)


def _names_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _tell_granted(asked: int, granted: int | None) -> None:
    """Say so where the server did not grant the time that was asked for; 0 s is no limit."""
    if granted is None or granted == asked:
        return
    words = f"granted {duration(granted)}" if granted else "set no limit"
    wish = f"asked for {duration(asked)}" if asked else "asked for no limit"
    click.echo(f"uws-job: you {wish}, the server {words}", err=True)
