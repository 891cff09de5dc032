"""astroquery's TapPlus, unmodified, against a running server: the job handling of its ESA modules.

What is TapPlus's own and no UWS (searching, sharing and removing jobs in bulk) is not there.
See docs/clients.md.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from requests.exceptions import HTTPError

from tests.clients.catalogue_query import stars
from tests.clients.plain import ENDLESS, FORGOTTEN, Client
from tests.clients.recorder import Recorder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what astroquery says when it is imported is not ours
    from astroquery.utils.tap.core import TapPlus

covers = pytest.mark.covers
# TapPlus leaves every connection open.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{said}") for said in FORGOTTEN]


@pytest.fixture(autouse=True)
def _left_open(close_what_is_left: None) -> None:
    """Close what TapPlus leaves open, before another test is blamed for it."""


@pytest.fixture
def tap(server: Client) -> TapPlus:
    return TapPlus(url=f"{server.base}/variables")


@covers("3:client-astroquery", "UWS-53", "UWS-54", "UWS-75", "3:results-single")
def test_a_query_from_creation_to_its_table(recorder: Recorder) -> None:
    tap = TapPlus(url=f"{recorder.base}/variables")
    job = tap.launch_job_async("SELECT TOP 3 ID, I FROM ogle3", name="three")
    names, catalogue = stars()
    table = job.get_results()
    assert list(table["ID"]) == [star[0] for star in catalogue[:3]]
    assert list(table["I"]) == [float(str(star[names.index("I")])) for star in catalogue[:3]]
    assert (job.get_phase(), job.is_finished()) == ("COMPLETED", True)
    first, *rest = recorder.sent
    path = job.remoteLocation.removeprefix(recorder.base)
    assert first.line == "POST /variables/async"
    assert first.headers["Accept"] == "text/plain"
    assert b"PHASE=RUN" in first.body
    assert {sent.line for sent in rest} == {f"GET {path}/phase", f"GET {path}/results/result"}
    assert path == f"/variables/async/{job.jobid}"


@covers("3:client-astroquery", "UWS-25", "UWS-65")
def test_a_job_is_made_first_and_started_later(server: Client, tap: TapPlus, tmp_path: Path) -> None:
    saved = tmp_path / "two.vot.gz"  # TapPlus wants it so, whatever comes
    job = tap.launch_job_async("SELECT TOP 2 ID FROM ogle3", autorun=False, output_file=str(saved))
    assert job.get_phase(update=True) == "PENDING"
    job.start()
    job.wait_for_job_end()
    job.save_results()
    assert saved.read_bytes() == server.get(f"{job.remoteLocation}/results/result").body


@covers("3:client-astroquery", "UWS-33", "UWS-34", "3:xml-exact")
def test_jobs_are_listed_and_loaded(server: Client, tap: TapPlus) -> None:
    done = tap.launch_job_async("SELECT count(*) AS stars FROM ogle3")
    waiting = tap.launch_job_async("SELECT 1 AS one", autorun=False)
    listed = {job.jobid: job for job in tap.list_async_jobs()}
    assert listed[done.jobid].get_phase() == "COMPLETED"
    assert listed[waiting.jobid].get_phase() == "PENDING"
    loaded = tap.load_async_job(jobid=done.jobid)
    assert list(loaded.get_data()["stars"]) == [1000]
    assert loaded.parameters["query"] == "SELECT count(*) AS stars FROM ogle3"
    assert loaded.startTime <= loaded.endTime
    assert int(loaded.executionDuration) == 600
    assert loaded.ownerid in {None, ""}
    assert tap.load_async_job(jobid=waiting.jobid, load_results=False).get_phase() == "PENDING"
    with pytest.raises(HTTPError, match="there is no job"):
        tap.load_async_job(jobid="0" * 26)


@covers("3:client-astroquery", "UWS-08", "UWS-71", "DALI-14")
def test_a_failure_is_raised_with_our_sentence(tap: TapPlus) -> None:
    # It asks for the result first, and takes the answer 404 for all there is to know.
    sentence = "has no result 'result': The query cannot be run: no such column: nix"
    with pytest.raises(HTTPError, match=sentence):
        tap.launch_job_async("SELECT nix FROM ogle3")


@covers("3:client-astroquery", "UWS-09", "3:bad-parameter")
def test_a_refused_job_is_an_error(tap: TapPlus) -> None:
    # MAXREC is a word of DALI that this service does not take.
    with pytest.raises(HTTPError, match=r"(?i)^bad request$"):
        tap.launch_job_async("SELECT 1 AS one", maxrec=5)


@covers("3:client-astroquery", "UWS-26")
def test_abort_is_done_and_taken_for_a_failure(server: Client, tap: TapPlus) -> None:
    """TapPlus wants 200 where UWS has 303; the abort itself is done all the same."""
    job = tap.launch_job_async(ENDLESS, autorun=False)
    with pytest.raises(HTTPError):
        job.abort()
    assert server.phase(job.remoteLocation) == "ABORTED"


@covers("3:client-astroquery", "UWS-44")
def test_a_job_in_the_background(server: Client, tap: TapPlus) -> None:
    job = tap.launch_job_async(ENDLESS, background=True)
    server.until(job.remoteLocation, "EXECUTING")
    assert job.get_phase(update=True) == "EXECUTING"
    assert server.post(f"{job.remoteLocation}/phase", {"PHASE": "ABORT"}).status == 303
    _, phase = job.wait_for_job_end()
    assert phase == "ABORTED"
