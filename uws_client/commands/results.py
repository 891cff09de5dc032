"""`uws-job results`: list what a job made, or fetch it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from uws_client.options import find_job, json_option, quiet_option, server_option
from uws_client.printing import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uws_client.documents import Result
    from uws_client.downloads import Downloaded
    from uws_client.protocol import RemoteJob


@click.command()
@click.argument("job")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=None, required=False)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this result; repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@quiet_option
@server_option
@json_option
def results(
    job: str,
    directory: Path | None,
    ids: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
    server: str,
    as_json: bool,
) -> None:
    """Fetch a job's results into DIRECTORY; without it only list them.

    A download that broke off is taken up again. Checksums are compared where the server gives them.
    """
    from uws_client.documents import as_json as in_json
    from uws_client.downloads import wanted
    from uws_client.sheets import fetched_list, result_list

    remote = find_job(job, server)
    document = remote.read()
    listed = wanted(document.results, ids)
    if not listed:
        click.echo(f"job {printable(remote.id)} is {document.phase} and has no results", err=True)
        return
    if directory is None:
        if as_json:
            for result in listed:
                print_json(in_json(result))
        else:
            click.echo(result_list(listed))
        return
    got = fetch(remote, listed, directory, overwrite=overwrite, quiet=quiet)
    if not as_json:
        click.echo(fetched_list(got))
        return
    for one in got:
        print_json(
            {
                "id": one.id,
                "path": str(one.path),
                "size": one.size,
                "sha256": one.sha256,
                "checked": one.checked,
            }
        )


def fetch(
    remote: RemoteJob,
    listed: Iterable[Result],
    directory: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Downloaded]:
    """Fetch results into a directory, with a bar on a terminal."""
    from uws_client.downloads import Downloads
    from uws_client.progress import Progress

    downloads = Downloads(remote.connection, directory, overwrite=overwrite)
    got = []
    with Progress() as progress:
        for result in listed:
            name = printable(result.id)

            def received(done: int, of: int | None, name: str = name) -> None:
                if not quiet:
                    progress.bytes(name, done, of)

            got.append(downloads.fetch(result, received))
    return got
