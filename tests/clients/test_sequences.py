"""Clients that cannot be installed here, by the exact requests that were measured or read in their code.

The AIP uws-client (Python 2), CADC's cadctap and vostools, astroquery's CASDA module (its host is fixed),
Firefly (a web application), uws-validator, and Java's HttpURLConnection where STILTS does not go.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

import pytest

from tests.clients.plain import ENDLESS, Client, in_days
from tests.waiting import PATIENCE, until

covers = pytest.mark.covers
UWS = "{http://www.ivoa.net/xml/UWS/v1.0}"
XLINK = "{http://www.w3.org/1999/xlink}"
NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
QUICK = "SELECT TOP 2 ID FROM ogle3"


@pytest.fixture(scope="module")
def jobs(server: Client) -> str:
    return f"{server.base}/variables/async"


def document(server: Client, job: str) -> ET.Element:
    answer = server.get(job)
    assert answer.status == 200
    return ET.fromstring(answer.body)


def form(server: Client, url: str, fields: Mapping[str, str], **headers: str) -> str:
    """POST as a form and want 303; the Location."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = server.ask("POST", url, urlencode(fields), kind | headers)
    assert answer.status == 303, answer.text
    return answer.location


# -- AIP uws-client ------------------------------------------------------------------------------------


@covers("UWS-13", "UWS-14", "UWS-21", "UWS-62", "3:parameters-pending")
def test_aip_uws_client(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"query": ENDLESS})
    assert job.startswith(f"{jobs}/")  # it cuts off the URL that it was given
    job_id = job.removeprefix(f"{jobs}/")
    assert job_id.lstrip("https:/") == job_id  # noqa: B005 - that is how it cuts
    root = document(server, job)
    assert root.get("version") == "1.1"
    start_tag = re.search(r"<uws:job [^>]*>", server.get(job).text)
    assert start_tag is not None
    assert 'xmlns:xlink="http://www.w3.org/1999/xlink"' in start_tag[0]
    always = "jobId phase startTime endTime executionDuration destruction parameters results"
    for name in always.split():
        assert root.find(f"{UWS}{name}") is not None, name
    for name in ("startTime", "endTime"):
        assert root.find(f"{UWS}{name}").get(NIL) == "true"  # type: ignore[union-attr]
    assert int(root.findtext(f"{UWS}executionDuration", "")) == 600
    # `set` and `abort` post to the job itself.
    assert form(server, job, {"executionDuration": "77"}) == job
    later = in_days(9)
    assert form(server, job, {"destruction": later}) == job
    root = document(server, job)
    assert root.findtext(f"{UWS}executionDuration") == "77"
    assert root.findtext(f"{UWS}destruction") == later.replace("Z", ".000Z")
    assert form(server, f"{job}/phase", {"PHASE": "RUN"}) == job
    server.until(job, "EXECUTING")
    listed = ET.fromstring(server.get(f"{jobs}?PHASE=EXECUTING&LAST=1").body)
    assert [ref.get(f"{XLINK}href") for ref in listed] == [job]
    assert form(server, job, {"PHASE": "ABORT"}) == job
    assert server.phase(job) == "ABORTED"
    gone = server.ask("DELETE", job)
    assert gone.status == 303
    assert gone.location.partition("?")[0] == jobs
    assert server.get(gone.location).status == 200
    assert server.get(job).status == 404


# -- CADC ----------------------------------------------------------------------------------------------


@covers("UWS-43", "UWS-75", "3:bad-slow-part")
def test_cadctap_reads_the_phase_with_a_body_in_a_get(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"LANG": "ADQL", "QUERY": QUICK})
    form(server, f"{job}/phase", {"PHASE": "RUN"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    def ended() -> str:
        answer = server.ask("GET", f"{job}/phase", "WAIT=2", headers)
        assert answer.status == 200
        if answer.text not in {"QUEUED", "EXECUTING"}:
            return answer.text
        server.get(f"{job}?WAIT=2")
        return ""

    assert until(ended, "the end of the query") == "COMPLETED"


@covers("UWS-26", "UWS-44", "UWS-22", "UWS-28", "DALI-06")
def test_vostools_waits_in_short_steps(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"QUERY": QUICK})
    assert form(server, f"{job}/phase", {"phase": "RUN"}) == job  # in lower case
    root = document(server, job)
    for _ in range(10):
        root = document(server, f"{job}?WAIT=6")
        if root.findtext(f"{UWS}phase") not in {"QUEUED", "EXECUTING", "SUSPENDED"}:
            break
    assert root.findtext(f"{UWS}phase") == "COMPLETED"
    assert {result.get("id") for result in root.iter(f"{UWS}result")} >= {"result", "stdout"}


@covers("UWS-23", "UWS-70", "UWS-08")
def test_vostools_reads_the_message_of_a_failure(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"QUERY": "SELECT nix FROM ogle3", "PHASE": "RUN"})
    assert server.done(job) == "ERROR"
    summary = document(server, job).find(f"{UWS}errorSummary")
    assert summary is not None
    assert summary.findtext(f"{UWS}message") == "The query cannot be run: no such column: nix"


# -- astroquery CASDA ----------------------------------------------------------------------------------


@covers("UWS-61", "UWS-62", "UWS-64", "UWS-22", "DALI-04", "DALI-11", "3:template-script")
def test_casda_adds_parameters_and_reads_every_result(server: Client) -> None:
    code = (
        "import sys, pathlib\nfor word in sys.argv[1:]:\n"
        "    pathlib.Path(word + '.txt').write_text('cut ' + word)\n"
    )
    job = server.script(code)
    pairs = [("args", "north"), ("args", "south")]
    assert server.post(f"{job}/parameters", pairs).status == 303
    assert form(server, f"{job}/phase", {"phase": "RUN"}) == job
    assert server.done(job) == "COMPLETED"
    found = {}
    for result in document(server, job).iter(f"{UWS}result"):
        answer = server.get(result.get(f"{XLINK}href", ""))
        assert answer.status == 200
        assert answer.headers["Content-Type"] == result.get("mime-type")
        if result.get("size"):
            assert len(answer.body) == int(result.get("size", ""))
        found[result.get("id")] = answer.text
    assert found["result.north.txt"] == "cut north"
    assert found["result.south.txt"] == "cut south"


# -- Firefly -------------------------------------------------------------------------------------------


@covers("UWS-13", "UWS-22", "UWS-52", "3:results-media-type")
def test_firefly(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"LANG": "ADQL", "QUERY": QUICK})
    form(server, f"{job}/phase", {"PHASE": "RUN"})
    server.done(job)
    answer = server.get(job)
    assert answer.headers["Content-Type"].startswith("text/xml")
    assert answer.headers["Cache-Control"] == "no-store"
    root = ET.fromstring(answer.body)
    (result,) = [one for one in root.iter(f"{UWS}result") if one.get("id") == "result"]
    assert result.get("mime-type") == "application/x-votable+xml"
    assert int(result.get("size", "")) > 0
    int(root.findtext(f"{UWS}executionDuration", ""))
    # Its job history reads the list, which must not become a page for people.
    for accept in (BROWSER, JAVA, "*/*", "text/plain"):
        listed = server.get(jobs, Accept=accept)
        assert listed.headers["Content-Type"].startswith("text/xml"), accept
        assert ET.fromstring(listed.body).tag == f"{UWS}jobs"


# -- uws-validator -------------------------------------------------------------------------------------


@covers("UWS-26", "UWS-68", "UWS-05", "UWS-21", "UWS-12")
def test_uws_validator_cleans_up_by_query_string(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"QUERY": ENDLESS, "PHASE": "RUN"})
    server.until(job, "EXECUTING")
    answer = server.ask("POST", f"{job}/phase?PHASE=ABORT")
    assert (answer.status, answer.location) == (303, job)
    assert document(server, job).findtext(f"{UWS}phase") == "ABORTED"
    assert document(server, job).findtext(f"{UWS}endTime", "").endswith("Z")
    assert server.ask("DELETE", job).status == 303
    for sub in ("", "/phase", "/destruction", "/results", "/parameters", "/error"):
        assert server.get(job + sub).status == 404


@covers("UWS-43", "UWS-44", "UWS-45", "UWS-47", "UWS-49", "UWS-50")
def test_uws_validator_times_the_wait(server: Client, jobs: str) -> None:
    def took(url: str) -> float:
        began = time.monotonic()
        assert server.get(url).status == 200
        return time.monotonic() - began

    not_its_end = 40  # seconds; it would be 50 and more
    job = form(server, jobs, {"QUERY": ENDLESS})
    assert took(f"{job}?WAIT=2") >= 2  # PENDING: all of it
    assert took(f"{job}?WAIT=0") < not_its_end
    assert took(f"{job}?WAIT=50&PHASE=QUEUED") < not_its_end  # it is another phase already
    form(server, f"{job}/phase", {"PHASE": "RUN"})
    server.until(job, "EXECUTING")
    assert took(f"{job}?WAIT=2&PHASE=EXECUTING") >= 2
    form(server, f"{job}/phase", {"PHASE": "ABORT"})
    assert took(f"{job}?WAIT=50") < not_its_end
    assert took(f"{job}?WAIT=-1") < not_its_end
    for bad in ("-2", "ten", "1.5", ""):
        assert server.get(f"{job}?WAIT={bad}").status == 400


@covers("UWS-35", "UWS-36", "UWS-37", "UWS-38", "UWS-39", "UWS-32", "3:uws-filters", "3:bad-control")
def test_uws_validator_filters(server: Client, jobs: str) -> None:
    made = [form(server, jobs, {"QUERY": QUICK}) for _ in range(4)]
    form(server, f"{made[1]}/phase", {"PHASE": "ABORT"})

    def listed(query: str) -> list[ET.Element]:
        answer = server.get(f"{jobs}?{query}")
        assert answer.status == 200
        return list(ET.fromstring(answer.body))

    def created(ref: ET.Element) -> str:
        return ref.findtext(f"{UWS}creationTime", "")

    assert {ref.findtext(f"{UWS}phase") for ref in listed("PHASE=PENDING")} == {"PENDING"}
    both = listed("PHASE=PENDING&PHASE=ABORTED")
    assert {ref.findtext(f"{UWS}phase") for ref in both} == {"PENDING", "ABORTED"}
    newest = listed("LAST=3")
    assert [ref.get(f"{XLINK}href") for ref in newest] == made[:0:-1]
    after = created(newest[2])
    assert [ref.get(f"{XLINK}href") for ref in listed(f"AFTER={after}")] == made[:1:-1]
    assert [ref.get(f"{XLINK}href") for ref in listed(f"AFTER={after}&PHASE=PENDING&LAST=1")] == made[:2:-1]
    for form_of_it in ("2015", "20151026", "2015-10-26", "2015-10-26%2009:00", "2015-10-26T09:00:00"):
        assert len(listed(f"AFTER={form_of_it}&LAST=2")) == 2
    offset = "AFTER=2015-10-26T09:00:00%2B01:00"
    for bad in ("PHASE=DONE", "LAST=0", "LAST=-1", "LAST=x", "AFTER=soon", offset):
        answer = server.get(f"{jobs}?{bad}")
        assert answer.status == 400, bad
        assert answer.headers["Content-Type"].startswith("text/plain")


@covers("UWS-13", "UWS-65", "UWS-40")
def test_uws_validator_follows_every_303(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"QUERY": QUICK})
    for sub, fields in (
        ("executionduration", {"EXECUTIONDURATION": "50"}),
        ("destruction", {"DESTRUCTION": in_days(9)}),
        ("parameters", {"QUERY": "SELECT 1 AS one"}),
        ("phase", {"PHASE": "ABORT"}),
    ):
        assert form(server, f"{job}/{sub}", fields) == job
    location = form(server, job, {"ACTION": "DELETE"})
    assert re.fullmatch(rf"{re.escape(jobs)}(\?LAST=\d+)?", location)
    assert job.encode() not in server.get(location).body


# -- what STILTS and pyvo found ------------------------------------------------------------------------


@covers("UWS-18", "UWS-61", "UWS-62", "DALI-04")
def test_run_id_is_a_parameter_to_dali_and_changes_with_them(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"QUERY": QUICK, "RUNID": "first"})
    form(server, f"{job}/parameters", {"runId": "second"})
    assert document(server, job).findtext(f"{UWS}runId") == "second"
    form(server, f"{job}/parameters", {"QUERY": "SELECT 1 AS one"})
    assert document(server, job).findtext(f"{UWS}runId") == "second"
    assert server.post(f"{job}/parameters", {"RUNID": "x" * 65}).status == 400
    assert server.post(f"{job}/parameters", {"PHASE": "RUN"}).status == 400
    form(server, f"{job}/phase", {"PHASE": "ABORT"})
    assert server.post(f"{job}/parameters", {"RUNID": "third"}).status == 403
    assert document(server, job).findtext(f"{UWS}runId") == "second"


@covers("UWS-56", "UWS-60")
def test_several_uploads_may_stand_in_one_value(server: Client) -> None:
    job = server.script("pass")
    # A semicolon belongs to a URL unless a name and a comma follow.
    both = "input,http://127.0.0.1:9/a;b;script,http://127.0.0.1:9/b.py"
    assert form(server, f"{job}/parameters", {"UPLOAD": both}) == job
    found = {one.get("id"): one.text for one in document(server, job).iter(f"{UWS}parameter")}
    assert found["input"] == "http://127.0.0.1:9/a;b"
    assert found["script"] == "http://127.0.0.1:9/b.py"
    for bad in ("input,param:a;input,param:b", "a,http://127.0.0.1:9/;b,", "input"):
        assert server.post(f"{job}/parameters", {"UPLOAD": bad}).status == 400, bad


@covers("UWS-05", "UWS-08")
def test_a_failed_job_says_why_a_result_is_missing(server: Client, jobs: str) -> None:
    job = form(server, jobs, {"QUERY": "SELECT nix FROM ogle3", "PHASE": "RUN"})
    assert server.done(job) == "ERROR"
    answer = server.get(f"{job}/results/result")
    assert answer.status == 404
    assert answer.text.endswith("has no result 'result': The query cannot be run: no such column: nix")


# -- Java's HttpURLConnection, as TOPCAT uses it -------------------------------------------------------


@covers("UWS-55", "UWS-59", "UWS-74", "UWS-76")
def test_java_sends_chunks_in_pieces_and_asks_for_html_first(server: Client, jobs: str) -> None:
    """STILTS does this in one go; here the pieces come apart, in the middle of the boundary too."""
    boundary = "<<<--------------MULTIPART-BOUNDARY------->>>"
    body = (
        f"--{boundary}\r\nContent-Type: text/plain; charset=UTF-8\r\n"
        f'Content-Disposition: form-data; name="QUERY"\r\n\r\nSELECT 1 AS one\r\n'
        f"--{boundary}\r\nContent-Type: text/plain; charset=UTF-8\r\n"
        f'Content-Disposition: form-data; name="RUNID"\r\n\r\nchunks\r\n--{boundary}--\r\n'
    ).encode()
    parts = urlsplit(jobs)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: {JAVA}\r\nConnection: close\r\n"
        f'Content-Type: multipart/form-data; boundary="{boundary}"\r\nTransfer-Encoding: chunked\r\n\r\n'
    )
    with socket.create_connection(
        (str(parts.hostname), int(parts.port or 0)), timeout=PATIENCE
    ) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode())
        for start in range(0, len(body), 37):
            piece = body[start : start + 37]
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    lines = answer.decode().split("\r\n")
    assert lines[0].startswith("HTTP/1.1 303 ")
    (job,) = [line.partition(": ")[2] for line in lines if line.lower().startswith("location:")]
    read = server.get(job, Accept=JAVA)
    assert read.headers["Content-Type"].startswith("text/xml")
    assert ET.fromstring(read.body).findtext(f"{UWS}runId") == "chunks"
    assert server.get(f"{job}/phase", Accept=JAVA).headers["Content-Type"].startswith("text/plain")
