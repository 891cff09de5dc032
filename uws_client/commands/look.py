"""`uws-job list` and `show`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from uws_client.options import connect, find_job, json_option, need_server, server_option
from uws_client.printing import columns, print_json

if TYPE_CHECKING:
    from uws_client.documents import JobRef


@click.command("list")
@click.argument("service", default="")
@click.option(
    "--phase", "phases", multiple=True, metavar="PHASE", help="Only jobs in this phase; repeatable."
)
@click.option(
    "--after", metavar="TIME", help="Only jobs made after this instant, UTC, e.g. 2026-03-01T12:00:00Z."
)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the N newest.")
@server_option
@json_option
def list_jobs(
    service: str, phases: tuple[str, ...], after: str | None, last: int | None, server: str, as_json: bool
) -> None:
    """List jobs, of SERVICE or of every service of the server."""
    from uws_client.documents import Phase, parse_instant
    from uws_client.documents import as_json as in_json
    from uws_client.services import Server
    from uws_client.sheets import job_list

    words = [word.upper() for word in phases]
    for word in words:
        if word not in Phase.__members__:
            raise click.BadParameter(
                f"{word!r} is no phase; phases are {', '.join(Phase)}", param_hint="--phase"
            )
    since = parse_instant(after) if after else None
    if after and since is None:
        raise click.BadParameter(
            f"{after!r} is no instant such as 2026-03-01T12:00:00Z", param_hint="--after"
        )
    need_server(server)
    found: list[tuple[str, JobRef]] = []
    for name, jobs in Server(server, connect(server)).job_lists(service).items():
        refs = jobs.read(phases=[Phase(word) for word in words], after=since, last=last)
        found.extend((name, ref) for ref in refs)
    if len({name for name, _ in found}) > 1:
        found.sort(key=lambda item: item[1].created.timestamp() if item[1].created else 0.0, reverse=True)
        found = found[:last]
    if as_json:
        for name, ref in found:
            print_json({"service": name or None, **in_json(ref)})
    elif found:
        click.echo(job_list(found, datetime.now(UTC), columns(sys.stdout)))
    else:
        click.echo("no jobs", err=True)


@click.command()
@click.argument("job")
@server_option
@json_option
def show(job: str, server: str, as_json: bool) -> None:
    """Show what the server says of a job, and what to do next."""
    from uws_client.sheets import described, job_sheet

    remote = find_job(job, server)
    document = remote.read()
    if as_json:
        print_json(described(document))
        return
    detail = remote.error_text() if document.error is not None and document.error.has_detail else ""
    click.echo(job_sheet(document, detail, datetime.now(UTC)))
