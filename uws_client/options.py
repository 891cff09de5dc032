"""What several commands take: the server, the job, times; and the connection that comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from uws_client.connection import Connection
    from uws_client.protocol import RemoteJob

Command = Callable[..., Any]


def server_option(command: Command) -> Command:
    """``--server``."""
    return click.option(
        "--server",
        envvar="UWS_SERVER",
        default="",
        metavar="URL",
        help="A job list, or the base address of a server with several services.  [env: UWS_SERVER]",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object, or one a line.")(command)


def quiet_option(command: Command) -> Command:
    """``--quiet``."""
    return click.option("--quiet", "-q", is_flag=True, help="No progress.")(command)


def wait_options(command: Command) -> Command:
    """``--timeout`` and ``--quiet``."""
    command = click.option(
        "--timeout", type=str, default=None, metavar="TIME", help="Wait no longer than this, e.g. 90s, 2h."
    )(command)
    return quiet_option(command)


def connect(server: str) -> Connection:
    """A connection to a server, closed when the command ends.

    :raises click.UsageError: that is no address.
    """
    from uws_client.connection import Connection

    if "://" not in server:
        raise click.UsageError(
            f"{server!r} is no address of a server; write it with http:// or https:// before it"
        )
    connection = Connection(server, token=os.environ.get("UWS_TOKEN", ""))
    return click.get_current_context().with_resource(connection)


def need_server(server: str) -> None:
    """Refuse a command that needs a server and was given none.

    :raises click.UsageError: that is so.
    """
    if not server:
        raise click.UsageError(
            "which server? give --server URL, or set UWS_SERVER, e.g. to http://127.0.0.1:8080"
        )


def find_job(job: str, server: str) -> RemoteJob:
    """The job that a person means by an address, an id, or SERVICE/ID.

    :raises click.UsageError: it is no address and no server is given.
    """
    from uws_client.protocol import RemoteJob
    from uws_client.services import Server

    if not job.strip("/ "):
        raise click.UsageError("which job? give its address or its id, as `uws-job list` shows them")
    if "://" not in job and not server:
        raise click.UsageError(f"{job!r} is no address, so tell the server: --server URL, or UWS_SERVER")
    connection = connect(server or job)
    return RemoteJob(job, connection) if "://" in job else Server(server, connection).job(job)


def seconds(text: str | None, option: str) -> int | None:
    """The time that was given with an option.

    :raises click.BadParameter: it is no time.
    """
    from uws_client.arguments import read_seconds

    if text is None:
        return None
    try:
        return read_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
