"""``uws-server``: what an operator runs. Each command imports what it needs, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from uws_server import __version__
from uws_server.exit_codes import EX_CONFIG, EX_TEMPFAIL

if TYPE_CHECKING:
    import threading

    from runners.base import Isolation
    from uws_server.readiness import Check
    from uws_server.settings import Settings
    from uws_server.up.run import Ready

EXIT_CODES = """
Exit codes:

\b
  0    done, or stopped as asked
  1    something needed does not start, or what was checked is broken
  2    the command line was wrong; of `check`: it works, but promises less
  75   something needed does not answer just now
  78   the settings cannot be used: starting again will not help
  130  ended at once by a second Ctrl-C
"""

Command = TypeVar("Command", bound=Callable[..., Any])


def _settings_options(command: Command) -> Command:
    for option in (
        click.option(
            "--data", type=click.Path(path_type=Path), help="Directory for everything that is kept."
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path),
            help="Settings, as YAML or TOML; else the file that UWS_CONFIG names.",
        ),
    ):
        command = option(command)
    return command


def _address_options(command: Command) -> Command:
    for option in (
        click.option("--port", type=int, help="Port to listen on; 0 for any that is free."),
        click.option("--host", help="Address to listen on."),
    ):
        command = option(command)
    return command


_holder_option = click.option(
    "--holder",
    hidden=True,
    help="Name that holds the lease. Whoever starts this knows that no other process of that name lives: "
    "then a killed one's lease passes on at once.",
)


def _load(file: Path | None, **options: Any) -> Settings:
    from uws_server import logs
    from uws_server.config import load

    settings = load(file, options={key.replace("__", "."): value for key, value in options.items()})
    logs.configure(settings.log.format, settings.log.level)
    return settings


@click.group(
    epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="uws-server")
def cli() -> None:
    """Batch jobs for science archives: UWS 1.1 in front, workers behind, results in object storage.

    On one machine, `up` is all that is needed. In a cluster, run `web`, `worker`, `watch` and
    `reconcile` as processes of their own, on one Redis and one object store.
    """


@cli.command()
@_settings_options
@_address_options
@click.option(
    "--site",
    type=click.Choice(["local", "kubernetes"]),
    help="Run jobs on this machine, or in the cluster of kubectl's current context; else as settings say.",
)
@click.option(
    "--objects", help="Where results are kept, such as s3://bucket/prefix; else in the data directory."
)
@click.option(
    "--images",
    metavar="PREFIX",
    help="What stands before the names of the agent's and the notebooks' image, as with scripts/images.",
)
@click.option("--json", "as_json", is_flag=True, help="Say that all is ready by one JSON object on a line.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Write that object to this file, too.")
@click.option("--verbose", is_flag=True, help="Show what Redis says, too.")
def up(
    file: Path | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    site: str | None,
    objects: str | None,
    images: str | None,
    as_json: bool,
    ready_file: Path | None,
    verbose: bool,
) -> None:
    """Run everything on this machine, until Ctrl-C.

    Jobs that run when this ends run on, and are found again at the next start.
    """
    from uws_server.listening import CannotListen
    from uws_server.redis_server import NoRedis
    from uws_server.up.run import CannotStart, Up, ready_json

    settings = _load(
        file,
        data=data,
        web__host=host,
        web__port=port,
        objects__url=objects,
        **_site_settings(site, images),
    )
    if settings.redis.url:
        from uws_server.factory import build

        with _starting():
            build(settings)  # somebody else's Redis: is it there, and durable?

    def isolation() -> tuple[str, ...]:
        from runners import sites

        return tuple(_isolation_line(name, sites.isolation(settings, name)) for name in settings.sites)

    def ready(found: Ready) -> None:
        if ready_file is not None:
            draft = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
            draft.write_text(ready_json(found) + "\n", encoding="utf-8")
            draft.replace(ready_file)
        if as_json:
            click.echo(ready_json(found))
            return
        click.echo(f"uws-server is ready at {found.url} after {found.seconds:.1f} s; Ctrl-C stops it.")
        click.echo(f"  data: {found.data}")
        for line in found.isolation:
            click.echo(f"  {line}")

    if ready_file is not None:
        directory = ready_file.absolute().parent
        if not os.access(directory, os.W_OK | os.X_OK):
            _fail(f"--ready-file {ready_file} cannot be written: {directory} is no directory to write in", 1)
        ready_file.unlink(missing_ok=True)
    try:
        sys.exit(Up(settings, isolation=isolation, on_ready=ready, verbose=verbose).run())
    except CannotStart as error:
        _fail(str(error), error.code)
    except (CannotListen, NoRedis) as error:
        _fail(str(error), 1)


def _site_settings(site: str | None, images: str | None) -> dict[str, str]:
    """What ``--site`` and ``--images`` say of the site of that name."""
    if images is not None and site != "kubernetes":
        raise click.UsageError("--images goes with --site kubernetes")
    said = {} if site is None else {f"sites__{site}__runner": site}
    if images is not None:
        for key, name in (("agent_image", "agent"), ("notebook_image", "notebook")):
            said[f"sites__kubernetes__kubernetes__{key}"] = f"{images}uws-{name}:{__version__}"
    return said


@cli.command()
@_settings_options
@_address_options
@click.option(
    "--descriptor",
    "descriptors",
    type=int,
    multiple=True,
    hidden=True,
    help="A listening socket that was handed down.",
)
def web(
    file: Path | None, data: Path | None, host: str | None, port: int | None, descriptors: tuple[int, ...]
) -> None:
    """Run the web processes."""
    if not descriptors:
        # Refused here in one sentence, rather than by each process. Under `up`, others look after it.
        from uws_server.factory import build
        from uws_server.listening import CannotListen, listen

        settings = _load(file, data=data, web__host=host, web__port=port)
        with _starting():
            _ = build(settings).door  # and with it the secret and the object store
        try:
            listen(settings.web.host, settings.web.port).close()
            if settings.operator.port:
                listen(settings.operator.host, settings.operator.port, "operator.port").close()
        except CannotListen as error:
            _fail(str(error), 1)
    # gunicorn starts in a fresh interpreter: nothing may be imported before its workers are patched.
    for name, value in (("CONFIG", file), ("DATA", data), ("WEB__HOST", host), ("WEB__PORT", port)):
        if value is not None:
            os.environ[f"UWS_{name}"] = str(value)
    command = [sys.executable, "-P", "-m", "gunicorn", "--config", "python:uws_server.web.gunicorn"]
    for each in descriptors:  # in place of what the settings say
        command += ["--bind", f"fd://{each}"]
    os.execv(command[0], command)  # noqa: S606


@cli.command()
@_settings_options
@click.option("--site", required=True, help="The site whose jobs are started or stopped.")
@click.option(
    "--queue",
    "kind",
    type=click.Choice(["start", "stop"]),
    default="start",
    show_default=True,
    help="Each worker hears one queue.",
)
def worker(file: Path | None, data: Path | None, site: str, kind: str) -> None:
    """Start the jobs of a site, or stop them."""
    settings = _load(file, data=data)

    import redis

    from runners import sites, tasks
    from runners.worker import Worker
    from uws_server.domain.wire import PATH
    from uws_server.factory import build
    from uws_server.queue.base import Work
    from uws_server.queue.rq import RqWorker, WorkerBroke, connect
    from uws_server.readiness import of_worker
    from uws_server.site_calls import CountedRunner
    from uws_server.site_offers import capacity

    with _starting():
        services = build(settings)
        pulse = services.pulse
        room = capacity(sites.site(settings, site))
        services.store.report_capacity(site, room)
        work = Worker(
            site=site,
            capacity=room,
            claim_seconds=settings.jobs.claim_seconds,
            store=services.store,
            changes=services.changes,
            catalog=services.catalog,
            runner=CountedRunner(site, sites.open_runner(settings, site)),
            agent_url=f"{sites.agent_url(settings, site)}{PATH}",
            # Who stops makes no token, and so is not given what makes them.
            secret=services.secret if kind == Work.START.value else b"",
        )
    tasks.serve(tasks.Context(services.queue, work))
    try:
        with _listening(settings, of_worker(services.store, pulse)):
            RqWorker(Work(kind), site, connect(settings.redis.url), heard=lambda: pulse.beat("queue")).run()
    except (WorkerBroke, redis.RedisError) as error:
        _fail(str(error), EX_TEMPFAIL)


@cli.command()
@_settings_options
@click.option("--site", required=True, help="The site to watch.")
@_holder_option
def watch(file: Path | None, data: Path | None, site: str, holder: str | None) -> None:
    """See what becomes of the attempts at a site. One at a time acts; a second one stands by."""
    settings = _load(file, data=data)

    from runners import sites
    from runners.watcher import Watcher
    from uws_server.factory import build, unique_holder
    from uws_server.readiness import of_watcher
    from uws_server.site_calls import CountedRunner

    with _starting():
        services = build(settings, signs=False)
        pulse = services.pulse
        watcher = Watcher(
            site=site,
            holder=holder or unique_holder(),
            store=services.store,
            changes=services.changes,
            objects=services.objects,
            runner=CountedRunner(site, sites.open_runner(settings, site), lambda: pulse.beat("list")),
            attempts=settings.jobs.attempts,
            clock=services.clock,
            lost_after=sites.site(settings, site).lost_after,
            pending_limit=sites.site(settings, site).pending_limit,
            relist_seconds=sites.site(settings, site).relist_seconds,
        )
    with _listening(settings, of_watcher(services.leases, pulse, site)):
        watcher.run(_stopped_by_signal(lambda: sites.interrupt(settings, site)))


@cli.command()
@_settings_options
@_holder_option
def reconcile(file: Path | None, data: Path | None, holder: str | None) -> None:
    """Carry out what time decides, and close what crashes left open. One at a time acts."""
    from uws_server.factory import build, unique_holder
    from uws_server.readiness import of_reconciler

    settings = _load(file, data=data)
    with _starting():
        services = build(settings, signs=False)
        reconciler = services.reconciler(holder or unique_holder())
    with _listening(settings, of_reconciler(services.pulse)):
        reconciler.run(_stopped_by_signal(lambda: None))


@cli.command()
@_settings_options
@click.option("--json", "as_json", is_flag=True, help="Say each by one JSON object on a line.")
def check(file: Path | None, data: Path | None, as_json: bool) -> None:
    """Say in sentences whether this machine and these settings keep what the server promises.

    Exit code 0: they do; 1: something is broken; 2: it works, but promises less, and the sentences say what.
    """
    import json

    from uws_server.checks import examine
    from uws_server.findings import Grade

    settings = _load(file, data=data)
    worst = Grade.GOOD
    for finding in examine(settings):
        worst = max(worst, finding.grade)
        if as_json:
            said = {
                "grade": finding.grade.name.lower(),
                "subject": finding.subject,
                "sentence": finding.sentence,
            }
            click.echo(json.dumps(said))
            continue
        mark = {Grade.GOOD: "ok     ", Grade.WEAK: "weak   ", Grade.BROKEN: "broken "}[finding.grade]
        click.echo(f"{mark} {finding.subject}: {finding.sentence}")
    sys.exit({Grade.GOOD: 0, Grade.WEAK: 2, Grade.BROKEN: 1}[worst])


@cli.group()
def templates() -> None:
    """Look at job templates, each of which makes a service."""


@templates.command(name="check")
@_settings_options
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path))
def check_templates(file: Path | None, data: Path | None, directories: tuple[Path, ...]) -> None:
    """Check templates: those in DIRECTORIES, else those that the settings name and the shipped ones.

    Every mistake is told with file and line; exit code 1 when there is one.
    """
    from job_templates import catalog

    if directories:
        for directory in directories:
            if directory.is_file():
                _fail(f"{directory} is a file; name the directory that holds it: {directory.parent}", 2)
            if directory.is_dir() and not any(
                path.suffix in {".yaml", ".yml"} for path in directory.iterdir()
            ):
                _fail(f"{directory} holds no template: none of its files ends in .yaml or .yml", 1)
        problems = catalog.check(directories, shipped=False)
    else:
        settings = _load(file, data=data)
        problems = catalog.check(settings.templates.directories, settings.templates.shipped)
    for problem in problems:
        click.echo(problem)
    if not problems:
        click.echo("All templates are right.")
    sys.exit(1 if problems else 0)


@templates.command(name="list")
@_settings_options
def list_templates(file: Path | None, data: Path | None) -> None:
    """List the services, with their parameters."""
    from job_templates import catalog

    settings = _load(file, data=data)
    try:
        services = catalog.load(settings.templates.directories, settings.templates.shipped)
    except catalog.TemplateErrors as error:
        _fail(str(error), 1)
    for template in services:
        click.echo(f"{template.name:<16} {template.kind:<10} {template.title}")
        for parameter in template.parameters:
            click.echo(f"    {parameter.name:<16} {parameter.type}")


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """What keeps a process from starting is said in sentences; once it runs, an error is an error."""
    from uws_server.starting import REFUSALS, refusal

    try:
        yield
    except REFUSALS as error:
        _fail(*refusal(error))


@contextlib.contextmanager
def _listening(settings: Settings, checks: Mapping[str, Check]) -> Iterator[None]:
    if not settings.operator.port:
        yield
        return
    from uws_server.listening import CannotListen
    from uws_server.operator_port import listening

    try:
        with listening(settings, checks):
            yield
    except CannotListen as error:
        _fail(str(error), 1)


def _stopped_by_signal(wake: Callable[[], None]) -> threading.Event:
    """An event that SIGTERM and SIGINT set; ``wake`` ends whatever wait the process is in."""
    import threading

    stop = threading.Event()

    def handle(_number: int, _frame: object) -> None:
        stop.set()
        wake()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def _isolation_line(name: str, found: Isolation) -> str:
    holds = " ".join(found.holds if found.sealed else found.lacks)
    return f"site {name}, isolation by {found.mode}: {holds}"


def _fail(message: str, code: int) -> NoReturn:
    from uws_server.logs import say

    for line in message.splitlines():
        say(line)
    sys.exit(code)


def main() -> None:
    """The console command."""
    from uws_server.config_file import BadConfig

    try:
        cli(prog_name="uws-server")
    except BadConfig as error:
        _fail(str(error), EX_CONFIG)


if __name__ == "__main__":
    main()
