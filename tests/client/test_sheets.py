"""What `uws-job` prints for people: lists that fit, one job with all that is known of it, what to do next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.client.conftest import job_xml, result_xml
from uws_client.arguments import read_seconds
from uws_client.documents import JobRef, Phase, read_job
from uws_client.printing import duration, roughly, table
from uws_client.sheets import job_list, job_sheet, next_steps

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
URL = "http://127.0.0.1/async/j1"


@pytest.mark.parametrize("text", ["0s", "90", "7d", "1h30min", "2d12h", "1d1h1min1s"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert read_seconds(duration(read_seconds(text))) == read_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172800, "2 d"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    assert roughly(seconds) == words


def refs() -> list[tuple[str, JobRef]]:
    made = NOW - timedelta(minutes=5)
    return [
        (
            "notebook",
            JobRef("a" * 26, URL, Phase.EXECUTING, "the analysis of\nmany\x9b stars.ipynb", None, made),
        ),
        ("script", JobRef("b" * 26, URL, Phase.PENDING)),
    ]


@pytest.mark.covers("3:cli-output")
def test_a_list_says_what_when_and_how_long_ago() -> None:
    head, first, second = job_list(refs(), NOW).splitlines()
    assert head.split() == ["JOB", "PHASE", "AGE", "CREATED", "RUN", "ID"]
    assert first.startswith(
        f"notebook/{'a' * 26}  EXECUTING  5 min  2026-03-01T11:55:00Z  the analysis of many"
    )
    assert first.endswith("many\N{REPLACEMENT CHARACTER} stars.ipynb")
    assert second == f"script/{'b' * 26}    PENDING"


@pytest.mark.covers("3:cli-output")
@pytest.mark.parametrize("width", [70, 80, 100])
def test_a_list_fits_a_terminal_and_names_of_jobs_stay_whole(width: int) -> None:
    lines = job_list(refs(), NOW, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].startswith(f"notebook/{'a' * 26}  EXECUTING  5 min  the ")
    assert ("…" in lines[1]) == (width < 85)
    assert "CREATED" not in lines[0]


def test_the_last_column_keeps_some_characters() -> None:
    assert table(("A", "B"), [("x" * 20, "y" * 20)], width=10).splitlines()[1] == f"{'x' * 20}  yyyyyyy…"


@pytest.mark.covers("3:cli-output")
def test_a_job_is_shown_with_parameters_results_error_and_what_to_do() -> None:
    results = result_xml("stderr", "/e", 'size="1500" mime-type="text/plain"') + result_xml("odd", "/o")
    error = '<uws:errorSummary hasDetail="true"><uws:message>Cell 4 broke</uws:message></uws:errorSummary>'
    parameters = (
        "<uws:parameters><uws:parameter id='p.n'>3</uws:parameter>"
        f"<uws:parameter id='notebook' byReference='true'>{URL}/parameters/notebook</uws:parameter>"
        "<uws:parameter id='far' byReference='true'>http://elsewhere/x</uws:parameter></uws:parameters>"
    )
    xml = job_xml("ERROR", results=results, error=error, info='<progress done="3" of="4"/>')
    xml = xml.replace("<uws:results>", parameters + "<uws:results>")
    xml = xml.replace("<uws:executionDuration>0<", "<uws:executionDuration>9000<")
    job = read_job(xml.encode(), URL)
    assert job_sheet(job, "Cell 4 broke\nin line 1\n", NOW).splitlines() == [
        f"job         {URL}",
        "phase       ERROR",
        "error       Cell 4 broke",
        "progress    3 of 4",
        "time limit  2h30min",
        "",
        "parameters",
        "  p.n       3",
        "  notebook  a file that was sent along",
        "  far       from http://elsewhere/x",
        "",
        "results",
        "  stderr  1.5 kB  text/plain",
        "  odd",
        "",
        "Cell 4 broke",
        "in line 1",
        "",
        "next",
        f"  uws-job logs --stderr {URL}",
        f"  uws-job results {URL} DIRECTORY",
    ]


@pytest.mark.parametrize(
    ("phase", "verbs"),
    [
        ("PENDING", ["run"]),
        ("HELD", ["run"]),
        ("QUEUED", ["wait", "logs", "abort"]),
        ("EXECUTING", ["wait", "logs", "abort"]),
        ("COMPLETED", ["results"]),
        ("ERROR", ["results"]),
    ],
)
def test_next_steps_fit_the_phase(phase: str, verbs: list[str]) -> None:
    job = read_job(job_xml(phase, results=result_xml("r", "/r")).encode(), URL)
    assert [step.split()[1] for step in next_steps(job)] == verbs
    assert all(URL in step for step in next_steps(job))
