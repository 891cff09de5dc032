"""The command `uws-job`: submit jobs to a UWS server, follow them, fetch what they made.

Results go to stdout, everything else to stderr. What is heavy is imported where it is used, so that
``--help`` is fast.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from uws_client.errors import Damaged, NotUws, Refused, Unfinished, Unreachable, UwsError

if TYPE_CHECKING:
    from uws_client.connection import Connection
    from uws_client.documents import Job, JobRef
    from uws_client.downloads import Downloaded
    from uws_client.protocol import RemoteJob

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

_BY_PHASE = {"COMPLETED": 0, "ARCHIVED": 0, "ERROR": 1, "ABORTED": 3}
_BY_ERROR: dict[type[UwsError], int] = {
    Unfinished: 4,
    Unreachable: 5,
    NotUws: 5,
    Refused: 6,
    Damaged: 7,
    UwsError: 2,
}

Command = Callable[..., Any]


class _Program(click.Group):
    """A group that says what went wrong in one sentence and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UwsError as error:
            click.echo(f"uws-job: {_plain(str(error))}", err=True)
            ctx.exit(next(code for kind, code in _BY_ERROR.items() if isinstance(error, kind)))
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            click.echo(f"uws-job: {error}", err=True)
            ctx.exit(7)
        except KeyboardInterrupt:
            click.echo("\nuws-job: interrupted", err=True)
            ctx.exit(130)


def _server_option(command: Command) -> Command:
    return click.option(
        "--server",
        envvar="UWS_SERVER",
        default="",
        metavar="URL",
        help="A job list, or the base address of a server with several services.  [env: UWS_SERVER]",
    )(command)


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object, or one a line.")(command)


def _wait_options(command: Command) -> Command:
    command = click.option(
        "--timeout", type=str, default=None, metavar="TIME", help="Wait no longer than this, e.g. 90s, 2h."
    )(command)
    return click.option("--quiet", "-q", is_flag=True, help="No progress.")(command)


@click.group(
    cls=_Program,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="uws-server")
def main() -> None:
    """Jobs on any UWS 1.1 server.

    JOB is a job's address, as `submit` prints it, or its id at --server (SERVICE/ID where that is
    the base address of several services). A token in the environment as UWS_TOKEN is shown to that
    server and to no other.
    """


@main.command()
@click.argument("arguments", nargs=-1, metavar="[SERVICE] [NAME=VALUE | NAME=@FILE]...")
@click.option("--cpu", metavar="CORES", help="Cores, e.g. 0.5 or 4, where the service takes CPU.")
@click.option("--memory", metavar="SIZE", help="Memory, e.g. 4GiB, where the service takes MEMORY.")
@click.option("--time", "duration", metavar="TIME", help="Stop the job after this time, e.g. 30min, 2h.")
@click.option("--run-id", default="", metavar="TEXT", help="A name of your own, shown in lists.")
@click.option("--run/--no-run", default=True, help="Run it at once (default), or leave it PENDING.")
@click.option("--wait/--detach", default=False, help="Wait for its end, or leave at once (default).")
@_wait_options
@_server_option
@_json_option
def submit(
    arguments: tuple[str, ...],
    cpu: str | None,
    memory: str | None,
    duration: str | None,
    run_id: str,
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
    from uws_client.arguments import read_parameter
    from uws_client.progress import Progress
    from uws_client.protocol import FileValue
    from uws_client.services import Server

    if wait and not run:
        raise click.UsageError("--wait with --no-run would wait for ever: nothing would start the job")
    service = arguments[0] if arguments and "=" not in arguments[0] else ""
    parameters = [("CPU", cpu)] * (cpu is not None) + [("MEMORY", memory)] * (memory is not None)
    texts: list[tuple[str, str]] = [(name, value) for name, value in parameters if value is not None]
    files: list[FileValue] = []
    for argument in arguments[1 if service else 0 :]:
        try:
            name, value = read_parameter(argument)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if isinstance(value, Path):
            files.append(FileValue(name, value))
        else:
            texts.append((name, value))
    seconds = _seconds(duration, "--time")
    until = _seconds(timeout, "--timeout")
    if not server:
        raise click.UsageError("which server? give --server URL, or set UWS_SERVER")
    with _connect(server) as connection:
        jobs = Server(server, connection).job_list(service)
        with Progress() as progress:
            sent = None if quiet else lambda done, of: progress.bytes("sending", done, of)
            job = jobs.create(texts, files, run=run, run_id=run_id, duration=seconds, sent=sent)
        if wait:
            if not as_json:
                click.echo(job.url)
            sys.exit(_wait(job, until, quiet=quiet, as_json=as_json))
        if as_json:
            _print_json(_described(job.read()))
            return
        click.echo(job.url)


@main.command("list")
@click.argument("service", default="")
@click.option(
    "--phase", "phases", multiple=True, metavar="PHASE", help="Only jobs in this phase; repeatable."
)
@click.option(
    "--after", metavar="TIME", help="Only jobs made after this instant, UTC, e.g. 2026-03-01T12:00:00Z."
)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the N newest.")
@_server_option
@_json_option
def list_jobs(
    service: str, phases: tuple[str, ...], after: str | None, last: int | None, server: str, as_json: bool
) -> None:
    """List jobs, of SERVICE or of every service of the server."""
    from uws_client.documents import Phase, format_instant, parse_instant
    from uws_client.documents import as_json as in_json
    from uws_client.progress import table
    from uws_client.services import Server

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
    if not server:
        raise click.UsageError("which server? give --server URL, or set UWS_SERVER")
    found: list[tuple[str, JobRef]] = []
    with _connect(server) as connection:
        for name, jobs in Server(server, connection).job_lists(service).items():
            refs = jobs.read(phases=[Phase(word) for word in words], after=since, last=last)
            found.extend((name, ref) for ref in refs)
    if len({name for name, _ in found}) > 1:
        found.sort(key=lambda item: item[1].created.timestamp() if item[1].created else 0.0, reverse=True)
        found = found[:last]
    if as_json:
        for name, ref in found:
            _print_json({"service": name or None, **in_json(ref)})
        return
    rows = [
        (
            _plain(f"{name}/{ref.id}" if name else ref.id),
            ref.phase.value,
            format_instant(ref.created) if ref.created else "",
            _plain(ref.run_id or ""),
        )
        for name, ref in found
    ]
    if rows:
        click.echo(table(("JOB", "PHASE", "CREATED", "RUN ID"), rows))
    else:
        click.echo("no jobs", err=True)


@main.command()
@click.argument("job")
@_server_option
@_json_option
def show(job: str, server: str, as_json: bool) -> None:
    """Show what the server says of a job."""
    remote = _find(job, server)
    document = remote.read()
    if as_json:
        _print_json(_described(document))
        return
    click.echo(_sheet(document))
    if document.error is not None and document.error.has_detail:
        click.echo("\n" + _plain(remote.error_text().rstrip()))


@main.command()
@click.argument("job")
@_server_option
@_json_option
def run(job: str, server: str, as_json: bool) -> None:
    """Run a job that is PENDING or HELD."""
    remote = _find(job, server)
    remote.run()
    _tell(remote.read(), as_json)


@main.command()
@click.argument("job")
@_wait_options
@_server_option
@_json_option
def wait(job: str, timeout: str | None, quiet: bool, server: str, as_json: bool) -> None:
    """Wait for a job's end; the exit code tells its phase. Ctrl-C leaves the job running."""
    until = _seconds(timeout, "--timeout")
    sys.exit(_wait(_find(job, server), until, quiet=quiet, as_json=as_json))


@main.command()
@click.argument("job")
@click.option(
    "--follow", "-f", is_flag=True, help="Go on until the job has ended; the exit code tells its phase."
)
@click.option(
    "--stderr", "name", flag_value="stderr", default="stdout", help="The job's stderr instead of its stdout."
)
@_server_option
@_json_option
def logs(job: str, follow: bool, name: str, server: str, as_json: bool) -> None:
    """Print what a job has written, and with -f what it writes."""
    from uws_client.logs import Log

    remote = _find(job, server)
    log = Log(remote, name)
    offset = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for chunk in log.follow() if follow else log.more():
            if as_json:
                _print_json({"stream": name, "offset": offset, "text": decoder.decode(chunk)})
            else:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            offset += len(chunk)
    except KeyboardInterrupt:
        _come_back(remote, "uws-job logs -f")
    if follow:
        sys.exit(_BY_PHASE.get(remote.read().phase.value, 4))


@main.command()
@click.argument("job")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=None, required=False)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this result; repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@_server_option
@_json_option
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
    from uws_client.progress import size, table

    remote = _find(job, server)
    document = remote.read()
    listed = wanted(document.results, ids)
    if not listed:
        click.echo(f"job {_plain(remote.id)} is {document.phase} and has no results", err=True)
        return
    if directory is not None:
        got = fetch(remote, listed, directory, overwrite=overwrite, quiet=quiet)
        if as_json:
            for one in got:
                _print_json(
                    {
                        "id": one.id,
                        "path": str(one.path),
                        "size": one.size,
                        "sha256": one.sha256,
                        "checked": one.checked,
                    }
                )
            return
        click.echo(fetched_table(got))
        return
    if as_json:
        for result in listed:
            _print_json(in_json(result))
        return
    rows = [
        (
            _plain(result.id),
            "" if result.size is None else size(result.size),
            _plain(result.media_type or ""),
            _plain(result.url),
        )
        for result in listed
    ]
    click.echo(table(("RESULT", "SIZE>", "TYPE", "ADDRESS"), rows))


@main.command()
@click.argument("job")
@_server_option
@_json_option
def abort(job: str, server: str, as_json: bool) -> None:
    """Stop a job; its results so far stay."""
    remote = _find(job, server)
    remote.abort()
    _tell(remote.read(), as_json)


@main.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_server_option
@_json_option
def delete(jobs: tuple[str, ...], yes: bool, server: str, as_json: bool) -> None:
    """Remove jobs with all their results."""
    remotes = [_find(job, server) for job in jobs]
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {len(remotes)} job(s) with all results?", abort=True, err=True)
    for remote in remotes:
        remote.delete()
        if as_json:
            _print_json({"url": remote.url, "deleted": True})
        else:
            click.echo(f"deleted {_plain(remote.url)}")


def fetch(
    remote: RemoteJob, listed: Any, directory: Path, *, overwrite: bool = False, quiet: bool = False
) -> list[Downloaded]:
    """Fetch results into a directory, with a bar on a terminal."""
    from uws_client.downloads import Downloads
    from uws_client.progress import Progress

    downloads = Downloads(remote.connection, directory, overwrite=overwrite)
    got = []
    with Progress() as progress:
        for result in listed:
            name = _plain(result.id)

            def received(done: int, of: int | None, name: str = name) -> None:
                if not quiet:
                    progress.bytes(name, done, of)

            got.append(downloads.fetch(result, received))
    return got


def fetched_table(got: list[Downloaded]) -> str:
    """What was fetched: sizes, checksums, files."""
    from uws_client.progress import size, table

    rows = [
        (_plain(one.id), size(one.size), "sha256 ok" if one.checked else "no checksum given", str(one.path))
        for one in got
    ]
    return table(("RESULT", "SIZE>", "CHECK", "FILE"), rows)


def _wait(remote: RemoteJob, timeout: int | None, *, quiet: bool, as_json: bool) -> int:
    """Wait for the end, telling how it goes; the exit code."""
    from uws_client.progress import Progress

    document: Job | None = None
    try:
        with Progress() as progress:
            for document in remote.watch(timeout=timeout, every=2.0):
                if not quiet:
                    note = "tidying up" if document.finalising else _plain(document.reason)
                    progress.state(document.phase.value, document.progress, note)
                if document.phase.value == "HELD":
                    raise Unfinished(
                        f"job {remote.id} is HELD and goes on only after: uws-job run {remote.url}"
                    )
    except KeyboardInterrupt:
        _come_back(remote, "uws-job wait")
    except Unfinished:
        if as_json and document is not None:
            _print_json(_described(document))
        raise
    if document is None:
        raise Unreachable(f"{remote.url} said nothing")
    if as_json:
        _print_json(_described(document))
    elif document.error is not None:
        click.echo(f"job {_plain(remote.id)} is {document.phase}: {_plain(document.error.message)}", err=True)
    return _BY_PHASE.get(document.phase.value, 4)


def _come_back(remote: RemoteJob, command: str) -> NoReturn:
    url = _plain(remote.url)
    click.echo(
        f"\nuws-job: the job goes on without you. Come back with:  {command} {url}\n"
        f"         stop it with:  uws-job abort {url}",
        err=True,
    )
    sys.exit(130)


def _connect(server: str) -> Connection:
    from uws_client.connection import Connection

    return Connection(server, token=os.environ.get("UWS_TOKEN", ""))


def _find(job: str, server: str) -> RemoteJob:
    """The job, on a connection that is closed when the command ends."""
    from uws_client.protocol import RemoteJob
    from uws_client.services import Server

    if "://" not in job and not server:
        raise click.UsageError(f"{job!r} is no address, so tell the server: --server URL, or UWS_SERVER")
    connection = click.get_current_context().with_resource(_connect(server or job))
    return RemoteJob(job, connection) if "://" in job else Server(server, connection).job(job)


def _seconds(text: str | None, option: str) -> int | None:
    from uws_client.arguments import read_seconds

    if text is None:
        return None
    try:
        return read_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _described(document: Job) -> dict[str, Any]:
    from uws_client.documents import as_json

    return {**as_json(document), "progress": document.progress}


def _tell(document: Job, as_json: bool) -> None:
    if as_json:
        _print_json(_described(document))
    else:
        click.echo(document.phase.value)


def _sheet(document: Job) -> str:
    from uws_client.documents import format_instant
    from uws_client.progress import size

    done = document.progress
    lines = [
        ("job", document.url),
        ("phase", document.phase.value + (" (results may still come)" if document.finalising else "")),
        ("progress", f"{done[0]} of {done[1]}" if done else ""),
        ("reason", document.reason),
        ("error", document.error.message if document.error else ""),
        ("run id", document.run_id or ""),
        ("owner", document.owner or ""),
        ("quote", format_instant(document.quote) if document.quote else ""),
        ("created", format_instant(document.created) if document.created else ""),
        ("started", format_instant(document.started) if document.started else ""),
        ("ended", format_instant(document.ended) if document.ended else ""),
        ("time limit", f"{document.duration} s" if document.duration else ""),
        ("destroyed", format_instant(document.destruction) if document.destruction else ""),
    ]
    lines += [("parameter", f"{p.name} = {_short(p.value)}") for p in document.parameters]
    for result in document.results:
        amount = "" if result.size is None else f", {size(result.size)}"
        lines.append(("result", f"{result.id} ({result.media_type or 'type unknown'}{amount})"))
    return "\n".join(f"{name:<12}{_plain(value)}" for name, value in lines if value)


def _short(value: str) -> str:
    flat = " ".join(value.split())
    return flat if len(flat) <= 200 else flat[:200] + " …"


def _plain(text: str) -> str:
    """Text of a server, without what would steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value))


if __name__ == "__main__":
    main()
