"""The command `uws-job`: submit jobs to a UWS server, follow them, fetch what they made.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import click

from uws_client.commands.change import abort, delete, run
from uws_client.commands.follow import logs, wait
from uws_client.commands.look import list_jobs, show
from uws_client.commands.results import results
from uws_client.commands.submit import submit
from uws_client.exits import EXIT_CODES, Program


@click.group(
    cls=Program,
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


for command in (submit, list_jobs, show, run, wait, logs, results, abort, delete):
    main.add_command(command)

if __name__ == "__main__":
    main()
