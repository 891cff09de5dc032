"""STILTS, as Debian ships it, against a running server; TOPCAT has the same UWS code.

STILTS speaks UWS as part of TAP. The service ``variables`` takes the parameters of a TAP query and answers
with a VOTable, so every step of its UWS part can be seen. What it asks of TAP beyond UWS is not there; it
is named below.
"""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.catalogue_query import stars
from tests.clients.plain import ENDLESS, Client, in_days
from tests.clients.recorder import Recorder
from tests.waiting import PATIENCE

covers = pytest.mark.covers
JAVA_ACCEPTS = re.compile(r"text/html, image/gif, image/jpeg, .*\*/\*; q=0?\.2")


def stilts(*words: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a task of STILTS."""
    done = subprocess.run(
        ["stilts", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@covers("3:client-stilts", "UWS-13", "UWS-53", "UWS-65", "UWS-68", "UWS-76", "3:results-single")
def test_a_whole_job_from_creation_to_deletion(server: Client, recorder: Recorder) -> None:
    done = stilts(
        "tapquery", f"tapurl={recorder.base}/variables", "sync=false", "poll=100", "delete=finished",
        "executionduration=120", f"destruction={in_days(9)}",
        "adql=SELECT TOP 5 ID, RA, DECL, I, P_1 FROM ogle3", "ofmt=csv",
    )  # fmt: skip
    names, catalogue = stars()
    columns = ["ID", "RA", "DECL", "I", "P_1"]
    found = rows(done.stdout)
    assert [row["ID"] for row in found] == [star[0] for star in catalogue[:5]]
    for row, star in zip(found, catalogue, strict=False):
        for name in columns[1:]:
            assert float(row[name]) == float(str(star[names.index(name)]))
    assert "DELETED" in done.stderr
    job = re.search(r"http://\S+/variables/async/\S+", done.stderr)
    assert job is not None
    path = job[0].removeprefix(recorder.base)
    assert server.get(server.base + path).status == 404
    lines = recorder.lines
    assert [line for line in lines if line.startswith("POST")] == [
        "POST /variables/async",
        f"POST {path}/executionduration",
        f"POST {path}/destruction",
        f"POST {path}/phase",
    ]
    assert f"GET {path}/results/result" in lines
    assert lines[-1] == f"DELETE {path}"
    # It trusts WAIT only where the document says version 1.1.
    assert any(line.startswith(f"GET {path}?") and "WAIT=-1" in line for line in lines)
    for sent in recorder.sent:
        assert JAVA_ACCEPTS.fullmatch(sent.headers["Accept"]), sent.headers["Accept"]


@covers("3:client-stilts", "UWS-56", "UWS-59", "UWS-55", "3:inline-upload")
def test_a_table_is_uploaded_in_chunks(recorder: Recorder, tmp_path: Path) -> None:
    table = tmp_path / "chosen.csv"
    table.write_text("star,note\nOGLE-LMC-ACEP-002,7\nOGLE-LMC-ACEP-004,8\n")
    done = stilts(
        "tapquery", f"tapurl={recorder.base}/variables", "sync=false", "poll=100", "nupload=1",
        f"upload1={table}", "ufmt1=csv", "upname1=stars",
        "adql=SELECT star, note, P_1 FROM stars JOIN ogle3 ON star = ID ORDER BY star", "ofmt=csv",
    )  # fmt: skip
    assert [(row["star"], row["note"], float(row["P_1"])) for row in rows(done.stdout)] == [
        ("OGLE-LMC-ACEP-002", "7", 0.9766401),
        ("OGLE-LMC-ACEP-004", "8", 1.8618275),
    ]
    (creation,) = [sent for sent in recorder.sent if sent.line == "POST /variables/async"]
    assert re.search(r'^multipart/form-data; *boundary="', creation.headers["Content-Type"])
    assert creation.headers["Transfer-Encoding"] == "chunked"
    assert creation.headers["Content-Length"] is None
    assert b'filename="' in creation.body


@covers("3:client-stilts", "UWS-44", "UWS-46", "UWS-47")
def test_a_job_is_taken_up_again_while_it_runs(server: Client, recorder: Recorder) -> None:
    counting = "SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 6000000"
    query = f"WITH RECURSIVE n(i) AS ({counting}) SELECT max(i) AS most FROM n"
    job = server.create("variables", {"QUERY": query, "PHASE": "RUN"})
    server.until(job, "EXECUTING")
    again = job.replace(server.base, recorder.base)
    done = stilts("tapresume", f"joburl={again}", "poll=200", "delete=never", "ofmt=csv")
    assert rows(done.stdout) == [{"most": "6000000"}]
    assert server.phase(job) == "COMPLETED"
    path = job.removeprefix(server.base)
    waits = [line for line in recorder.lines if line.startswith(f"GET {path}?")]
    assert waits
    assert all(re.search(r"WAIT=-1&PHASE=(QUEUED|EXECUTING)$", line) for line in waits)
    # Finished already: fetched at once, and deleted as wished.
    done = stilts("tapresume", f"joburl={job}", "delete=always", "ofmt=csv", "progress=false")
    assert rows(done.stdout) == [{"most": "6000000"}]
    assert server.get(job).status == 404


@covers("3:client-stilts", "UWS-68")
def test_a_running_job_is_deleted_without_waiting(server: Client) -> None:
    job = server.create("variables", {"QUERY": ENDLESS, "PHASE": "RUN"})
    server.until(job, "EXECUTING")
    stilts("tapresume", f"joburl={job}", "delete=now", "ofmt=csv", expected=1)
    assert server.get(job).status == 404


@covers("3:client-stilts", "UWS-08", "UWS-71")
def test_a_failed_job_is_an_error(server: Client, recorder: Recorder) -> None:
    job = server.create("variables", {"QUERY": "SELECT nix FROM ogle3", "PHASE": "RUN"})
    server.until(job, "ERROR")
    again = job.replace(server.base, recorder.base)
    done = stilts("tapresume", f"joburl={again}", "poll=100", "delete=never", expected=1)
    # TAP has a VOTable at /error; this is a plain text, as DALI permits to services that are none of TAP.
    assert "TAP Execution error" in done.stderr
    assert f"GET {job.removeprefix(server.base)}/error" in recorder.lines


@covers("3:client-stilts", "UWS-09")
def test_a_refused_job_is_an_error_at_once(server: Client) -> None:
    service = f"tapurl={server.base}/variables"
    done = stilts("tapquery", service, "sync=false", "language=PQL", "adql=SELECT 1", expected=1)
    assert "400" in done.stderr


# What taplint says of the service ``variables``: it is no TAP service.
NOT_TAP = {
    "E-UWS-PAMM": "REQUEST is not among the parameters: a rule of TAP 1.0, which neither UWS nor TAP 1.1 has",
}


@covers("3:client-stilts", "UWS-01", "UWS-02", "UWS-61", "UWS-18", "VOSI-01", "VOSI-03", "VOSI-04", "3:vosi")
def test_taplint_finds_no_fault(server: Client) -> None:
    """The stages that ask about UWS and VOSI; the others ask about tables and ADQL."""
    done = stilts("taplint", f"tapurl={server.base}/variables", "stages=CPV AVV UWS", "format=text")
    said = done.stdout
    errors = re.findall(r"^([EF]-\w+-\w+)-\d+ (.*)$", said, re.MULTILINE)
    assert [(code, text) for code, text in errors if code not in NOT_TAP] == [], said
    for stage in ("CPV", "AVV"):
        assert f"S-{stage}-VALI-1 SAX report: warnings 0, errors 0, fatal 0" in said
    # It got to the end: created, changed, aborted, deleted, ran.
    assert "UWS job document explicitly V1.1" in said
    assert len(re.findall(r"^I-UWS-CJOB-\d+ Created new job", said, re.MULTILINE)) == 3
    for step in ("PHASE=ABORT", "ACTION=DELETE", "PHASE=RUN"):
        assert re.search(rf"POSTed {step} to \S+ \(303\)", said), said
    # Elements and attributes of ours, which the schema leaves room for, are in namespaces of their own.
    unknown = re.findall(r"^W-\w+-UNSC-\d+ .*: (\S+)$", said, re.MULTILINE)
    assert set(unknown) <= {"urn:uwscustom", "urn:uws-server:jobinfo:1"}
    assert len(re.findall(r"^W-", said, re.MULTILINE)) == len(unknown)
