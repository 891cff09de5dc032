from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.conftest import job_xml, result_xml
from uws_client.documents import (
    Phase,
    as_json,
    format_instant,
    parse_instant,
    read_job,
    read_job_list,
)
from uws_client.errors import NotUws

URL = "http://uws.example/tap/async/j1"


def test_job_of_our_own_server() -> None:
    info = '<info xmlns="urn:uws-server:jobinfo:1"><site>here</site><progress done="3" of="10"/></info>'
    digest = "AB" * 32
    result = result_xml(
        "plot", f"{URL}/results/plot", f'size="12" mime-type="image/png" uwsc:sha256="{digest}"'
    )
    job = read_job(job_xml("EXECUTING", results=result, info=info).encode(), URL)
    assert (job.id, job.phase, job.version, job.owner, job.duration) == (
        "j1",
        Phase.EXECUTING,
        "1.1",
        None,
        0,
    )
    assert job.waits
    assert job.progress == (3, 10)
    assert job.info["site"] == "here"
    (plot,) = job.results
    assert (plot.size, plot.media_type, plot.sha256) == (12, "image/png", digest.lower())
    assert job.started is None
    assert job.result("plot") is plot
    assert job.result("other") is None


@pytest.mark.covers("3:cli-foreign")
def test_other_prefixes_relative_links_and_missing_elements() -> None:
    job = read_job(
        b"""<job xmlns="http://www.ivoa.net/xml/UWS/v1.0" xmlns:a="http://www.w3.org/1999/xlink">
        <jobId>7</jobId><phase> COMPLETED </phase><startTime/>
        <creationTime>2026-11-03 08:59:58.1234567</creationTime>
        <quote>-1</quote><executionDuration>60.0</executionDuration>
        <results><result id="r" a:href="results/r" size="many"/>
        <result a:href="/else/where.fits"/><result id="bare"/></results>
        <errorSummary>it broke</errorSummary></job>""",
        URL,
    )
    assert (job.version, job.waits, job.phase, job.duration, job.quote) == (
        "1.0",
        False,
        "COMPLETED",
        60,
        None,
    )
    assert job.created == datetime(2026, 11, 3, 8, 59, 58, 123456, UTC)
    assert [(r.id, r.url, r.size) for r in job.results] == [
        ("r", f"{URL}/results/r", None),
        ("where.fits", "http://uws.example/else/where.fits", None),
        ("bare", f"{URL}/results/bare", None),
    ]
    assert job.error is not None
    assert job.error.message == "it broke"


def test_no_namespace_at_all_and_comments_within_text() -> None:
    job = read_job(b"<job><jobId>7</jobId><phase>ERR<!-- x -->OR</phase></job>", URL)
    assert job.phase is Phase.ERROR


def test_unknown_phase_is_unknown() -> None:
    assert read_job(job_xml("DREAMING").encode(), URL).phase is Phase.UNKNOWN


@pytest.mark.parametrize("info", ["<p>3 of 10</p>", "<p>3/10</p>"])
def test_progress_in_words(info: str) -> None:
    assert read_job(job_xml("EXECUTING", info=info.replace("p>", "progress>")).encode(), URL).progress == (
        3,
        10,
    )


@pytest.mark.parametrize("info", ["", "half done", '<progress done="x" of="10"/>', '<progress done="1"/>'])
def test_no_progress(info: str) -> None:
    assert read_job(job_xml("EXECUTING", info=info).encode(), URL).progress is None


def test_finalising_only_in_a_final_phase() -> None:
    info = "<finalising>true</finalising>"
    assert read_job(job_xml("ABORTED", info=info).encode(), URL).finalising
    assert not read_job(job_xml("EXECUTING", info=info).encode(), URL).finalising
    assert not read_job(job_xml("ABORTED").encode(), URL).finalising


def test_job_list_with_relative_links_and_without() -> None:
    refs = read_job_list(
        b"""<u:jobs xmlns:u="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink">
        <u:jobref id="a" xlink:href="a"><u:phase>QUEUED</u:phase><u:runId>mine</u:runId></u:jobref>
        <u:jobref id="b"><u:phase>ERROR</u:phase>
        <u:creationTime>2026-01-01T00:00:00Z</u:creationTime></u:jobref>
        <u:jobref xlink:href="http://uws.example/tap/async/c/"><u:phase>HELD</u:phase></u:jobref></u:jobs>""",
        "http://uws.example/tap/async?LAST=3",
    )
    assert [(ref.id, ref.url) for ref in refs] == [
        ("a", "http://uws.example/tap/async/a"),
        ("b", "http://uws.example/tap/async/b"),
        ("c", "http://uws.example/tap/async/c/"),
    ]
    assert refs[0].run_id == "mine"
    assert refs[1].created == datetime(2026, 1, 1, tzinfo=UTC)


BOMB = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10 if n else "ha"}">' for n in range(9))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not answer with XML"),
        (b"<html><body>hello</body></html>", "<html>"),
        (b"<job><phase>ERROR", "not answer with XML"),
        (b"<job><jobId>7</jobId></job>", "without a phase"),
        (b"\x89PNG\r\n", "not answer with XML"),
        (
            b'<!DOCTYPE job [<!ENTITY e SYSTEM "file:///etc/passwd">]><job><phase>&e;</phase></job>',
            "document type",
        ),
        (f"<!DOCTYPE job [{BOMB}]><job><phase>&x8;</phase></job>".encode(), "amplification|document type"),
        (b'<!DOCTYPE job SYSTEM "http://127.0.0.1:9/x.dtd"><job><phase>ERROR</phase></job>', "document type"),
        (b"<a>" * 10_000, "not answer with XML"),
    ],
)
def test_what_is_no_job_document(content: bytes, words: str) -> None:
    with pytest.raises(NotUws, match=words) as raised:
        read_job(content, URL)
    assert URL in str(raised.value)


def test_broken_link_is_named() -> None:
    with pytest.raises(NotUws, match="broken link"):
        read_job(job_xml("COMPLETED", results=result_xml("r", "http://[::1")).encode(), URL)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-03T09:00:01Z", datetime(2026, 11, 3, 9, 0, 1, tzinfo=UTC)),
        ("2026-11-03T09:00:01", datetime(2026, 11, 3, 9, 0, 1, tzinfo=UTC)),
        ("2026-11-03T10:00:01+01:00", datetime(2026, 11, 3, 9, 0, 1, tzinfo=UTC)),
        ("2026-11-03", datetime(2026, 11, 3, tzinfo=UTC)),
        ("2026-11-03T09:00:01.123456789Z", datetime(2026, 11, 3, 9, 0, 1, 123456, tzinfo=UTC)),
        ("", None),
        ("yesterday", None),
        ("2026-13-03T09:00:01Z", None),
    ],
)
def test_instants(text: str, instant: datetime | None) -> None:
    assert parse_instant(text) == instant


@given(
    st.datetimes(
        min_value=datetime(1, 1, 3),  # noqa: DTZ001
        max_value=datetime(9999, 12, 29),  # noqa: DTZ001
        timezones=st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    )
)
def test_written_instants_are_read_again(instant: datetime) -> None:
    text = format_instant(instant)
    assert text.endswith("Z")
    read = parse_instant(text)
    assert read is not None
    assert timedelta(0) <= instant - read < timedelta(milliseconds=1)


def test_json_has_no_types_of_ours() -> None:
    data = as_json(read_job(job_xml("PENDING", results=result_xml("r", "r")).encode(), URL))
    assert data["phase"] == "PENDING"
    assert data["results"][0]["url"] == f"{URL}/r"
