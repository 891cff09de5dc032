"""`uws-job run`, `abort` and `delete`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from uws_client.options import find_job, json_option, server_option
from uws_client.printing import print_json, printable

if TYPE_CHECKING:
    from uws_client.documents import Job


@click.command()
@click.argument("job")
@server_option
@json_option
def run(job: str, server: str, as_json: bool) -> None:
    """Run a job that is PENDING or HELD."""
    remote = find_job(job, server)
    remote.run()
    _tell(remote.read(), as_json)


@click.command()
@click.argument("job")
@server_option
@json_option
def abort(job: str, server: str, as_json: bool) -> None:
    """Stop a job; its results so far stay."""
    remote = find_job(job, server)
    remote.abort()
    _tell(remote.read(), as_json)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@server_option
@json_option
def delete(jobs: tuple[str, ...], yes: bool, server: str, as_json: bool) -> None:
    """Remove jobs with all their results."""
    remotes = [find_job(job, server) for job in jobs]
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {len(remotes)} job(s) with all results?", abort=True, err=True)
    for remote in remotes:
        remote.delete()
        if as_json:
            print_json({"url": remote.url, "deleted": True})
        else:
            click.echo(f"deleted {printable(remote.url)}")


def _tell(document: Job, as_json: bool) -> None:
    from uws_client.sheets import described

    if as_json:
        print_json(described(document))
    else:
        click.echo(document.phase.value)
