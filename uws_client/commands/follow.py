"""`uws-job wait` and `logs`, and the waiting that `submit --wait` does too."""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from uws_client.errors import Unfinished, Unreachable
from uws_client.exits import INTERRUPTED, of_phase
from uws_client.options import find_job, json_option, seconds, server_option, wait_options
from uws_client.printing import print_json, printable

if TYPE_CHECKING:
    from uws_client.documents import Job
    from uws_client.protocol import RemoteJob


@click.command()
@click.argument("job")
@wait_options
@server_option
@json_option
def wait(job: str, timeout: str | None, quiet: bool, server: str, as_json: bool) -> None:
    """Wait for a job's end; the exit code tells its phase. Ctrl-C leaves the job running."""
    until = seconds(timeout, "--timeout")
    sys.exit(wait_for(find_job(job, server), until, quiet=quiet, as_json=as_json))


@click.command()
@click.argument("job")
@click.option(
    "--follow", "-f", is_flag=True, help="Go on until the job has ended; the exit code tells its phase."
)
@click.option(
    "--stderr", "name", flag_value="stderr", default="stdout", help="The job's stderr instead of its stdout."
)
@server_option
@json_option
def logs(job: str, follow: bool, name: str, server: str, as_json: bool) -> None:
    """Print what a job has written, and with -f what it writes."""
    from uws_client.logs import Log

    remote = find_job(job, server)
    log = Log(remote, name)
    offset = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for chunk in log.follow() if follow else log.more():
            if as_json:
                print_json({"stream": name, "offset": offset, "text": decoder.decode(chunk)})
            else:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            offset += len(chunk)
    except KeyboardInterrupt:
        _come_back(remote, "uws-job logs -f")
    if follow:
        sys.exit(of_phase(remote.read().phase.value))


def wait_for(remote: RemoteJob, timeout: int | None, *, quiet: bool, as_json: bool) -> int:
    """Wait for the end, telling how it goes; the exit code.

    :raises Unfinished: the time is over, or the job is HELD.
    """
    from uws_client.progress import Progress
    from uws_client.sheets import described

    document: Job | None = None
    try:
        with Progress() as progress:

            def away(_: Unreachable) -> None:
                if not quiet:
                    phase = document.phase.value if document else "UNKNOWN"
                    progress.state(phase, note="the server does not answer; it is asked again")

            remote.connection.on_trouble = away
            for document in remote.watch(timeout=timeout, every=2.0):
                if not quiet:
                    note = "tidying up" if document.finalising else printable(document.reason)
                    progress.state(document.phase.value, document.progress, note)
                if document.phase.value == "HELD":
                    raise Unfinished(
                        f"job {remote.id} is HELD and goes on only after: uws-job run {remote.url}"
                    )
    except KeyboardInterrupt:
        _come_back(remote, "uws-job wait")
    except Unfinished:
        if as_json and document is not None:
            print_json(described(document))
        raise
    if document is None:
        raise Unreachable(f"{remote.url} said nothing")
    if as_json:
        print_json(described(document))
    elif document.error is not None:
        click.echo(
            f"job {printable(remote.id)} is {document.phase}: {printable(document.error.message)}\n"
            f"more of it shows:  uws-job show {printable(remote.url)}",
            err=True,
        )
    return of_phase(document.phase.value)


def _come_back(remote: RemoteJob, command: str) -> NoReturn:
    url = printable(remote.url)
    click.echo(
        f"\nuws-job: the job goes on without you. Come back with:  {command} {url}\n"
        f"         stop it with:  uws-job abort {url}",
        err=True,
    )
    sys.exit(INTERRUPTED)
