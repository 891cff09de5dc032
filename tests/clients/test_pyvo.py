"""pyvo, unmodified, against a running server: jobs made by pyvo itself, and any job by its URL."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
from astropy.table import Table
from astropy.utils.exceptions import AstropyDeprecationWarning
from pyvo.dal import AsyncTAPJob, DALQueryError, DALServiceError, TAPService
from pyvo.io.uws import parse_job, parse_job_list

from scripts.demo import extract
from tests.clients.catalogue_query import stars
from tests.clients.plain import ENDLESS, FORGOTTEN, Client, in_days
from tests.clients.recorder import Recorder
from tests.waiting import PATIENCE

covers = pytest.mark.covers
# pyvo reads answers as streams and leaves them open.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{said}") for said in FORGOTTEN]
FINISHED = ["COMPLETED", "ABORTED", "ERROR"]

TWO_FILES = """
import os, pathlib
(found,) = pathlib.Path(os.environ["UWS_INPUTS"], "input").iterdir()
pathlib.Path("period.txt").write_text(found.read_text().split()[0])
pathlib.Path("second.txt").write_text("2")
print("two files")
"""


@pytest.fixture(autouse=True)
def _left_open(close_what_is_left: None) -> None:
    """Close what pyvo leaves open."""


@pytest.fixture
def service(server: Client) -> TAPService:
    return TAPService(f"{server.base}/variables")


@pytest.fixture
def endless(service: TAPService) -> Iterator[AsyncTAPJob]:
    """A job that runs until it is stopped."""
    with service.submit_job(ENDLESS).run() as job:
        yield job


@covers("3:client-pyvo", "UWS-53", "UWS-13", "UWS-48", "UWS-50", "UWS-68", "3:results-single")
def test_a_query_from_creation_to_deletion(server: Client, recorder: Recorder) -> None:
    service = TAPService(f"{recorder.base}/variables")
    job = service.submit_job("SELECT TOP 7 ID, P_1 FROM ogle3 ORDER BY P_1 DESC")
    assert job.phase == "PENDING"
    assert job.uws_version == "1.1"
    assert (job.owner, job.quote, job.results) == (None, None, [])
    job.run()
    assert job.phase in {"QUEUED", "EXECUTING", "COMPLETED"}
    job.wait(phases=FINISHED, timeout=PATIENCE)
    assert job.phase == "COMPLETED"
    job.raise_if_error()
    assert job.result_uri == f"{job.url}/results/result"
    assert [result.id_ for result in job.results] == ["result", "stdout", "stderr", "manifest"]
    assert job.result.mimetype == "application/x-votable+xml"
    straight = job.result_uri.replace(recorder.base, server.base)
    assert job.result.size == len(server.get(straight).body)
    assert job.job.starttime <= job.job.endtime
    found = job.fetch_result()
    names, catalogue = stars()
    column = names.index("P_1")
    longest = sorted(catalogue, key=lambda star: -float(str(star[column])))[:7]
    assert list(found["ID"]) == [star[0] for star in longest]
    assert list(found["P_1"]) == [float(str(star[column])) for star in longest]
    url = job.url
    job.delete()
    path = url.removeprefix(recorder.base)
    assert server.get(server.base + path).status == 404
    lines = recorder.lines
    assert lines[0] == "POST /variables/async"
    assert f"POST {path}/phase" in lines
    assert f"GET {path}/results/result" in lines
    assert lines[-1] == f"DELETE {path}"
    # WAIT really waits: pyvo asks once for each change, and not again and again.
    assert 1 <= len([line for line in lines if line == f"GET {path}?WAIT=-1"]) <= 4


@covers("3:client-pyvo", "UWS-54")
def test_run_async_does_all_at_once(server: Client, service: TAPService) -> None:
    found = service.run_async("SELECT count(*) AS stars FROM ogle3", delete=True)
    assert list(found["stars"]) == [1000]


@covers("3:client-pyvo", "UWS-56", "3:inline-upload")
def test_a_table_is_uploaded_with_the_job_and_later(service: TAPService) -> None:
    table = Table({"star": ["OGLE-LMC-ACEP-002", "OGLE-LMC-ACEP-004"]})
    query = "SELECT star, P_1 FROM stars JOIN ogle3 ON star = ID ORDER BY star"
    found = service.run_async(query, uploads={"stars": table})
    assert list(found["P_1"]) == [0.9766401, 1.8618275]
    with service.submit_job(query) as job:
        job.upload(stars=table[:1])
        job.run().wait(timeout=PATIENCE)
        assert list(job.fetch_result()["P_1"]) == [0.9766401]


@covers("3:client-pyvo", "UWS-15", "UWS-16", "UWS-31", "UWS-65", "UWS-66")
def test_duration_and_destruction_are_kept_as_wished(service: TAPService) -> None:
    with service.submit_job("SELECT 1 AS one") as job:
        job.execution_duration = 90
        assert job.execution_duration.to_value("s") == 90
        wish = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=3, microseconds=123456)
        job.destruction = wish
        assert abs((job.destruction.to_datetime() - wish).total_seconds()) < 3
        later = in_days(20)
        job.destruction = later
        assert job.destruction.isot == later.replace("Z", ".000")
        job.execution_duration = 999_999_999  # more than the service has: its ceiling
        assert job.execution_duration.to_value("s") == 3600


@covers("3:client-pyvo", "UWS-61", "UWS-62", "DALI-04", "DALI-06")
def test_the_query_is_changed_while_pending_and_not_later(service: TAPService) -> None:
    with service.submit_job("SELECT 1 AS one") as job:
        assert job.query == "SELECT 1 AS one"
        job.query = "SELECT 2 AS two WHERE 1 < 2 AND 'ü&' = 'ü&'"
        assert job.query == "SELECT 2 AS two WHERE 1 < 2 AND 'ü&' = 'ü&'"
        job.run().wait(timeout=PATIENCE)
        assert list(job.fetch_result()["two"]) == [2]
        with pytest.raises(DALServiceError, match="parameters can be changed while a job is PENDING"):
            job.query = "SELECT 3 AS three"
        assert job.query.startswith("SELECT 2")


@covers("3:client-pyvo", "UWS-26", "UWS-28", "UWS-21", "UWS-25", "UWS-06")
def test_abort_keeps_the_job(endless: AsyncTAPJob) -> None:
    endless.wait(phases=["EXECUTING"], timeout=PATIENCE)
    endless.abort()
    assert endless.phase == "ABORTED"
    assert endless.job.endtime is not None
    endless.abort()  # again: without effect
    # pyvo takes ABORTED for no phase that can be waited for.
    with pytest.raises(DALServiceError, match="Job is not active"):
        endless.wait(timeout=10)
    with pytest.raises(DALServiceError, match="a job in phase ABORTED cannot be run"):
        endless.run()
    assert endless.phase == "ABORTED"


@covers("3:client-pyvo", "UWS-68")
def test_leaving_the_context_deletes_a_running_job(server: Client, service: TAPService) -> None:
    with service.submit_job(ENDLESS).run() as job:
        url = job.url
        job.wait(phases=["EXECUTING"], timeout=PATIENCE)
    assert server.get(url).status == 404
    with pytest.raises(DALServiceError, match="there is no job"):
        AsyncTAPJob(url)


@covers("3:client-pyvo", "UWS-15")
def test_a_job_over_its_time_is_aborted(service: TAPService) -> None:
    with service.submit_job(ENDLESS) as job:
        job.execution_duration = 1
        job.run()
        with pytest.raises(DALServiceError, match="Job is not active"):
            job.wait(timeout=PATIENCE)
        assert job.phase == "ABORTED"


@covers("3:client-pyvo", "UWS-08", "UWS-70", "UWS-72")
def test_a_failure_is_raised_with_our_sentence(service: TAPService) -> None:
    with service.submit_job("SELECT nix FROM ogle3").run() as job:
        job.wait(timeout=PATIENCE)
        assert job.phase == "ERROR"
        with pytest.raises(DALQueryError, match="Query Error: The query cannot be run: no such column: nix"):
            job.raise_if_error()
        with pytest.raises(DALQueryError, match="no such column: nix"):
            job.fetch_result()
    with pytest.raises(DALQueryError, match="no such table: stars"):
        service.run_async("SELECT * FROM stars")


@covers("3:client-pyvo", "UWS-09", "DALI-08", "DALI-15", "3:bad-parameter")
def test_a_refusal_shows_our_sentence(service: TAPService) -> None:
    with pytest.raises(DALServiceError, match=r"lang.*ADQL"):
        service.submit_job("SELECT 1", language="PQL")
    with pytest.raises(DALServiceError, match="has no parameter 'COLOUR'; it accepts query, lang"):
        service.submit_job("SELECT 1", colour="blue")


@covers("3:client-pyvo", "UWS-33", "UWS-34", "UWS-35", "UWS-36", "UWS-37", "UWS-38", "UWS-42")
def test_job_lists(service: TAPService) -> None:
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    with (
        service.submit_job("SELECT 1 AS one") as first,
        service.submit_job("SELECT 2 AS two", runid="mine") as second,
        service.submit_job(ENDLESS) as third,
    ):
        second.run().wait(timeout=PATIENCE)
        third.run().wait(phases=["EXECUTING"], timeout=PATIENCE)
        ids = [third.job_id, second.job_id, first.job_id]
        listed = service.get_job_list(after=before)
        assert [job.jobid for job in listed] == ids
        assert [job.phase for job in listed] == ["EXECUTING", "COMPLETED", "PENDING"]
        assert [job.runid for job in listed] == [None, "mine", None]
        assert all(job.creationtime.to_datetime() > before for job in listed)

        def filtered(**filters: object) -> list[str]:
            return [job.jobid for job in service.get_job_list(**filters)]

        assert filtered(last=2) == ids[:2]
        assert filtered(phases=["PENDING", "EXECUTING"], after=before) == [ids[0], ids[2]]
        assert filtered(phases=["PENDING", "COMPLETED"], after=before, last=1) == [ids[1]]
        assert filtered(after=listed[0].creationtime.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) == []
        assert filtered(after="2099-01-01T00:00:00Z") == []
        assert filtered(phases=["ARCHIVED"]) == []
        full = service.get_job_list(last=2, short_description=False)
        queries = [entry.content for job in full for entry in job.parameters if entry.id_ == "query"]
        assert queries == [ENDLESS, "SELECT 2 AS two"]


@covers("3:client-pyvo", "3:template-script", "UWS-22", "DALI-10")
def test_any_job_is_followed_by_its_url(server: Client) -> None:
    """A job of the service ``script``: its files come from pyvo too, its results are several."""
    url = server.script("pass", RUNID="from afar")
    with AsyncTAPJob(url) as job:
        assert job.job.runid == "from afar"
        job.upload(script=io.StringIO(TWO_FILES), input=io.StringIO("0.93697 days\n"))
        job.run().wait(timeout=PATIENCE)
        job.raise_if_error()
        assert job.phase == "COMPLETED", server.get(f"{url}/results/stderr").text
        # Several files are several results; none of them is *the* result.
        texts = {result.id_: server.get(result.href).text for result in job.results}
        assert texts["result.period.txt"] == "0.93697"
        assert texts["result.second.txt"] == "2"
        assert texts["stdout"] == "two files\n"
        assert job.result_uris == [result.href for result in job.results]


@covers("3:client-pyvo", "3:template-lightcurve", "UWS-22")
def test_a_notebook_on_a_real_light_curve(server: Client, tmp_path: Path) -> None:
    curve = extract(tmp_path)["R"]
    with AsyncTAPJob(server.upload("lightcurve", {"light_curve": curve.read_bytes()}, {})) as job:
        job.run().wait(timeout=PATIENCE)
        job.raise_if_error()
        (period,) = [result for result in job.results if result.id_ == "period"]
        assert period.mimetype == "application/json"
        found = json.loads(server.get(period.href).body)
        assert abs(found["period"] - 0.93697) < 1e-4
        (table,) = [result for result in job.results if result.id_ == "table"]
        assert len(Table.read(server.get(table.href).text, format="ascii.ecsv")) == found["points"]


@covers("3:client-pyvo", "3:template-lightcurve", "UWS-23", "3:notebook-error-cell")
def test_a_notebook_that_fails_names_its_cell(server: Client) -> None:
    url = server.upload("lightcurve", {"light_curve": b"# no light curve at all\n"}, {"RUNID": "empty"})
    with AsyncTAPJob(url) as job:
        job.run().wait(timeout=PATIENCE)
        assert job.phase == "ERROR"
        with pytest.raises(DALQueryError, match=r"[Cc]ell \d"):
            job.raise_if_error()
        assert "notebook" in {result.id_ for result in job.results}


@covers("3:client-pyvo", "UWS-01", "UWS-20", "3:xml-exact")
def test_documents_are_parsed(server: Client, service: TAPService, tmp_path: Path) -> None:
    with service.submit_job("SELECT 1 AS one", runid="a <b> & c").run() as job:
        job.wait(timeout=PATIENCE)
        path = tmp_path / "job.xml"
        path.write_bytes(server.get(job.url).body)
        read = parse_job(str(path))
        assert (read.version, read.jobid, read.phase) == ("1.1", job.job_id, "COMPLETED")
        assert read.runid == "a <b> & c"
        assert read.creationtime <= read.starttime <= read.endtime < read.destruction
        parameters = {entry.id_: entry.content for entry in read.parameters}
        assert parameters == {"query": "SELECT 1 AS one", "lang": "ADQL"}
        assert read.jobinfo is not None
        path.write_bytes(server.get(f"{server.base}/variables/async").body)
        (listed,) = [entry for entry in parse_job_list(str(path)) if entry.jobid == job.job_id]
        assert (listed.phase, listed.runid) == ("COMPLETED", "a <b> & c")


@covers("3:client-pyvo", "VOSI-02", "VOSI-03", "VOSI-04", "VOSI-05", "VOSI-07", "3:vosi")
def test_availability_and_capabilities(service: TAPService) -> None:
    # pyvo finds availability out of fashion and says so.
    with pytest.warns(AstropyDeprecationWarning):
        assert service.available is True
    found = {capability.standardid for capability in service.capabilities}
    assert "ivo://ivoa.net/std/UWS#rest-1.1" in found
    assert {"ivo://ivoa.net/std/VOSI#availability", "ivo://ivoa.net/std/VOSI#capabilities"} <= found


def test_the_page_names_the_versions_that_are_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    assert f"| pyvo | {version('pyvo')} |" in page
    assert f"| astroquery TapPlus | {version('astroquery')} |" in page
