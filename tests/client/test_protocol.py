from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.client.conftest import Asked, Reply, Standin, Time, job_xml
from uws_client.connection import Connection
from uws_client.documents import Phase
from uws_client.errors import NotUws, Refused, Unfinished, Unreachable, UwsError
from uws_client.logs import Log
from uws_client.protocol import FileValue, JobList, RemoteJob
from uws_client.services import Server


def jobs_at(standin: Standin, connection: Connection) -> JobList:
    return JobList(standin.url + "/async", connection)


def job_at(standin: Standin, connection: Connection) -> RemoteJob:
    return jobs_at(standin, connection).job("j1")


# -- making ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["{url}/async/j1", "/async/j1", "async/j1"])
@pytest.mark.parametrize("status", [303, 302, 201])
def test_create_sends_a_form(standin: Standin, connection: Connection, location: str, status: int) -> None:
    where = {"Location": location.format(url=standin.url)}
    standin.on("POST", "/async", Reply(b"", status, where))
    job = jobs_at(standin, connection).create(
        [("a", "1"), ("b", "x&y=z"), ("a", "2")],
        run=True,
        run_id="mine",
        duration=60,
        destruction=datetime(2031, 1, 1, tzinfo=UTC),
    )
    assert job.url == standin.url + "/async/j1"
    (asked,) = standin.asked
    assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert asked.form == {
        "a": ["1", "2"],
        "b": ["x&y=z"],
        "RUNID": ["mine"],
        "EXECUTIONDURATION": ["60"],
        "DESTRUCTION": ["2031-01-01T00:00:00Z"],
        "PHASE": ["RUN"],
    }


@pytest.mark.covers("UWS-56")
def test_create_sends_files_and_sends_them_again_to_a_busy_server(
    standin: Standin, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "analysis.ipynb"
    path.write_bytes(b"0123456789" * 20_000)
    moved = Reply(b"", 303, {"Location": "/async/j1"})
    standin.once_each("POST", "/async", Reply(b"", 503, {"Retry-After": "1"}), moved)
    seen: list[tuple[int, int]] = []
    jobs_at(standin, connection).create(
        [("p.n", "3")], [FileValue("notebook", path)], sent=lambda done, of: seen.append((done, of))
    )
    assert seen[-1] == (200_000, 200_000)
    assert len({asked.headers["Idempotency-Key"] for asked in standin.asked}) == 1
    for asked in standin.asked:
        assert asked.headers["Content-Type"].startswith("multipart/form-data")
        assert re.search(rb'name="notebook"\r\n\r\nparam:upload_0\r\n', asked.body)
        assert re.search(rb'name="p.n"\r\n\r\n3\r\n', asked.body)
        assert (
            b'name="upload_0"; filename="analysis.ipynb"\r\nContent-Type: application/x-ipynb+json'
            in asked.body
        )
        assert path.read_bytes() in asked.body


def test_create_at_what_is_no_job_list(standin: Standin, connection: Connection) -> None:
    standin.on("POST", "/async", "<html/>")
    with pytest.raises(NotUws, match="Is this the address of a job list"):
        jobs_at(standin, connection).create()


# -- reading -----------------------------------------------------------------------------------------

LIST = """<uws:jobs xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0">
<uws:jobref id="a"><uws:phase>QUEUED</uws:phase>
<uws:creationTime>2026-01-01T00:00:00Z</uws:creationTime></uws:jobref>
<uws:jobref id="b"><uws:phase>ERROR</uws:phase>
<uws:creationTime>2026-01-03T00:00:00Z</uws:creationTime></uws:jobref>
<uws:jobref id="c"><uws:phase>QUEUED</uws:phase>
<uws:creationTime>2026-01-02T00:00:00Z</uws:creationTime></uws:jobref>
</uws:jobs>"""


@pytest.mark.covers("3:cli-foreign")
def test_filters_hold_even_where_the_server_ignores_them(standin: Standin, connection: Connection) -> None:
    standin.on("GET", "/async", LIST)
    jobs = jobs_at(standin, connection)
    assert [ref.id for ref in jobs.read()] == ["a", "b", "c"]
    assert [ref.id for ref in jobs.read(phases=[Phase.QUEUED])] == ["a", "c"]
    assert [ref.id for ref in jobs.read(last=2)] == ["b", "c"]
    assert [ref.id for ref in jobs.read(after=datetime(2026, 1, 2, tzinfo=UTC))] == ["b"]
    assert [asked.query for asked in standin.asked] == [
        {},
        {"PHASE": ["QUEUED"]},
        {"LAST": ["2"]},
        {"AFTER": ["2026-01-02T00:00:00Z"]},
    ]


def test_changes_go_to_their_resources(standin: Standin, connection: Connection) -> None:
    for word in ("phase", "destruction", "executionduration", "parameters"):
        standin.on("POST", f"/async/j1/{word}", Reply(b"", 303, {"Location": "/async/j1"}))
    job = job_at(standin, connection)
    job.run()
    job.abort()
    job.set_duration(5)
    job.set_destruction(datetime(2031, 1, 1, tzinfo=UTC))
    job.set_parameters([("a", "1")])
    assert [(asked.path, asked.form) for asked in standin.asked] == [
        ("/async/j1/phase", {"PHASE": ["RUN"]}),
        ("/async/j1/phase", {"PHASE": ["ABORT"]}),
        ("/async/j1/executionduration", {"EXECUTIONDURATION": ["5"]}),
        ("/async/j1/destruction", {"DESTRUCTION": ["2031-01-01T00:00:00Z"]}),
        ("/async/j1/parameters", {"a": ["1"]}),
    ]


def test_delete_of_what_is_gone_is_no_error(standin: Standin, connection: Connection) -> None:
    job_at(standin, connection).delete()
    assert [asked.method for asked in standin.asked] == ["DELETE"]


@pytest.mark.covers("3:cli-foreign")
def test_delete_by_form_where_the_method_is_not_let_through(standin: Standin, connection: Connection) -> None:
    standin.on("DELETE", "/async/j1", Reply(status=405))
    standin.on("POST", "/async/j1", Reply(b"", 303, {"Location": "/async"}))
    job_at(standin, connection).delete()
    assert standin.asked[-1].form == {"ACTION": ["DELETE"]}


def test_delete_of_somebody_elses_job(standin: Standin, connection: Connection) -> None:
    standin.on("DELETE", "/async/j1", Reply(status=403))
    with pytest.raises(Refused, match="403"):
        job_at(standin, connection).delete()


# -- waiting -----------------------------------------------------------------------------------------


@pytest.mark.covers("3:cli-foreign")
def test_a_server_of_uws_1_0_is_asked_more_and_more_rarely(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    standin.once_each(
        "GET", "/async/j1", *[job_xml("EXECUTING", version=None)] * 25, job_xml("COMPLETED", version=None)
    )
    *_, last = job_at(standin, connection).watch()
    assert last.phase is Phase.COMPLETED
    assert all("WAIT" not in asked.query for asked in standin.asked)
    assert fake_time.slept == sorted(fake_time.slept)
    assert (fake_time.slept[0], fake_time.slept[-1]) == (0.5, 15.0)


def test_a_server_that_waits_is_not_slept_for(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    def answer(asked: Asked) -> str:
        if "WAIT" not in asked.query:
            return job_xml("QUEUED")
        fake_time.now += 2
        return job_xml({"QUEUED": "EXECUTING", "EXECUTING": "COMPLETED"}[asked.query["PHASE"][0]])

    standin.on("GET", "/async/j1", answer)
    phases = [job.phase for job in job_at(standin, connection).watch(every=2)]
    assert phases == ["QUEUED", "EXECUTING", "COMPLETED"]
    assert [asked.query.get("WAIT") for asked in standin.asked] == [None, ["2"], ["2"]]
    assert fake_time.slept == []


@pytest.mark.covers("3:cli-foreign")
def test_a_server_that_says_1_1_and_does_not_wait(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    standin.once_each("GET", "/async/j1", *[job_xml("QUEUED")] * 40, job_xml("ERROR"))
    *_, last = job_at(standin, connection).watch()
    assert last.phase is Phase.ERROR
    assert fake_time.now > 60


@pytest.mark.parametrize("phase", ["SUSPENDED", "UNKNOWN", "HELD", "PENDING"])
def test_phases_that_are_not_the_end(standin: Standin, connection: Connection, phase: str) -> None:
    standin.once_each("GET", "/async/j1", job_xml(phase), job_xml(phase), job_xml("ARCHIVED"))
    *_, last = job_at(standin, connection).watch()
    assert last.phase is Phase.ARCHIVED


def test_results_that_are_still_to_come_are_waited_for(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    coming = job_xml("ABORTED", info="<finalising>true</finalising>")
    standin.once_each("GET", "/async/j1", coming, coming, job_xml("ABORTED"))
    assert [job.finalising for job in job_at(standin, connection).watch()] == [True, True, False]
    standin.on("GET", "/async/j1", coming)
    began = fake_time.now
    *_, last = job_at(standin, connection).watch()
    assert last.finalising
    assert 60 < fake_time.now - began < 90


def test_the_time_to_wait_is_over(standin: Standin, connection: Connection, fake_time: Time) -> None:
    standin.on("GET", "/async/j1", job_xml("EXECUTING"))
    with pytest.raises(Unfinished, match="still EXECUTING after 20 s"):
        list(job_at(standin, connection).watch(timeout=20))
    assert 20 <= fake_time.now < 21


def test_a_restart_of_the_server_is_outlived(standin: Standin, connection: Connection) -> None:
    gone = Reply(b"", 502)
    standin.once_each(
        "GET", "/async/j1", job_xml("QUEUED"), gone, gone, Reply(b"01", cut=1), job_xml("COMPLETED")
    )
    assert [job.phase for job in job_at(standin, connection).watch()] == ["QUEUED", "COMPLETED"]


def test_a_server_that_does_not_come_back(standin: Standin, connection: Connection, fake_time: Time) -> None:
    standin.once_each("GET", "/async/j1", job_xml("QUEUED"), Reply(b"", 502))
    with pytest.raises(Unreachable):
        list(job_at(standin, connection).watch())
    assert 280 < fake_time.now < 310


def test_a_server_that_was_never_there_is_not_waited_for(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    standin.on("GET", "/async/j1", Reply(b"", 502))
    with pytest.raises(Unreachable):
        list(job_at(standin, connection).watch())
    assert fake_time.slept == []


def test_broken_xml_is_said_at_once(standin: Standin, connection: Connection) -> None:
    standin.on("GET", "/async/j1", "<uws:job><oops")
    with pytest.raises(NotUws):
        list(job_at(standin, connection).watch())


# -- logs --------------------------------------------------------------------------------------------

TEXT = b"one\ntwo\nthree\n"


@pytest.mark.parametrize("ranges", [True, False])
def test_log_is_followed_without_a_byte_twice(standin: Standin, connection: Connection, ranges: bool) -> None:
    sizes = [0, 4, 4, 9, len(TEXT)]
    phases = ["QUEUED", *["EXECUTING"] * 6, "COMPLETED"]

    def log(asked: Asked) -> Reply:
        text = TEXT[: sizes.pop(0) if len(sizes) > 1 else sizes[0]]
        said = asked.headers["Range"]
        if not said or not ranges:
            return Reply(text)
        start = int(said.removeprefix("bytes=").rstrip("-"))
        if start >= len(text):
            return Reply(b"", 416, {"Content-Range": f"bytes */{len(text)}"})
        return Reply(text[start:], 206, {"Content-Range": f"bytes {start}-{len(text) - 1}/{len(text)}"})

    standin.on("GET", "/async/j1", lambda _: job_xml(phases.pop(0) if len(phases) > 1 else phases[0]))
    standin.on("GET", "/async/j1/results/stdout", log)
    assert b"".join(Log(job_at(standin, connection)).follow()) == TEXT


def test_log_that_comes_later_and_log_that_never_comes(standin: Standin, connection: Connection) -> None:
    standin.once_each("GET", "/async/j1", job_xml("QUEUED"), job_xml("COMPLETED"))
    with pytest.raises(Refused, match="404"):
        list(Log(job_at(standin, connection)).follow())
    standin.once_each("GET", "/async/j1", job_xml("QUEUED"), job_xml("COMPLETED"))
    standin.once_each("GET", "/async/j1/results/stderr", Reply(status=404), "late")
    assert list(Log(job_at(standin, connection), "stderr").follow()) == [b"late"]


# -- addresses ---------------------------------------------------------------------------------------


def test_base_address_of_several_services(standin: Standin, connection: Connection) -> None:
    standin.on("GET", "/uws/services", '{"services": [{"name": "notebook"}, {"name": "script"}]}')
    standin.on("GET", "/uws/script/async/j1", job_xml("QUEUED"))
    server = Server(standin.url + "/uws/", connection)
    assert {name: jobs.url for name, jobs in server.job_lists().items()} == {
        "notebook": standin.url + "/uws/notebook/async",
        "script": standin.url + "/uws/script/async",
    }
    assert server.job_list("script").url == standin.url + "/uws/script/async"
    assert server.job("j1").url == standin.url + "/uws/script/async/j1"
    assert server.job("notebook/j9").url == standin.url + "/uws/notebook/async/j9"
    with pytest.raises(UwsError, match="name one of: notebook, script"):
        server.job_list()
    with pytest.raises(Refused, match=r"no service of .* has a job 'j2'"):
        server.job("j2")


@pytest.mark.covers("3:cli-foreign")
def test_job_list_of_any_name_and_the_base_of_a_tap_service(standin: Standin, connection: Connection) -> None:
    standin.on("GET", "/opus/runs", LIST)
    assert Server(standin.url + "/opus/runs", connection).job_list().url == standin.url + "/opus/runs"
    standin.on("GET", "/tap/async", LIST)
    assert Server(standin.url + "/tap", connection).job_list().url == standin.url + "/tap/async"
    assert Server(standin.url + "/x/async", connection).job_list().url == standin.url + "/x/async"
    with pytest.raises(UwsError, match="is one job list"):
        Server(standin.url + "/tap/async", connection).job_list("notebook")
    with pytest.raises(NotUws, match="no UWS job list"):
        Server(standin.url + "/", connection).job_list()
