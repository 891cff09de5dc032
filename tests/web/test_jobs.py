"""Every resource of a job list, by an ordinary client: creation, reading, changing, deleting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.web.world import BASE, ROOM, START, UWS, XLINK, XSI, Client, World, local, texts, validate
from uws_server.domain import events
from uws_server.domain.errors import Unavailable
from uws_server.domain.instants import to_iso
from uws_server.domain.job import Job
from uws_server.domain.phase import ABORTABLE, LISTED, TERMINAL, UNSTARTED, Phase
from uws_server.storage.base import StorageUnavailable
from uws_server.store.base import Lease, StoreUnavailable

covers = pytest.mark.covers
NIL = f"{XSI}nil"


def post(client: Client, path: str, **fields: str) -> Any:
    return client.post(path, data=fields)


# -- creating ------------------------------------------------------------------------------------------


@covers("UWS-13", "UWS-53", "DALI-01", "DALI-02", "UWS-04", "3:uws-resources")
def test_creating_answers_303_to_a_pending_job(client: Client) -> None:
    response = client.post("/stack/async", data={"scale": "2"})
    assert response.status_code == 303
    location = response.headers["Location"]
    assert location.startswith(f"{BASE}/stack/async/")
    root = client.xml(local(response))
    assert list(texts(root, "phase")) == ["PENDING"]
    assert list(texts(root, "jobId")) == [location.rpartition("/")[2]]


@covers("UWS-03", "UWS-79")
def test_job_ids_are_one_plain_segment_and_random(client: Client) -> None:
    ids = {client.create().rpartition("/")[2] for _ in range(50)}
    assert len(ids) == 50
    for job_id in ids:
        assert len(job_id) == 26
        assert job_id[0].isdigit()
        assert set(job_id) <= set("0123456789abcdefghijklmnopqrstuv")
    # No position says the same for all: nothing counts, nothing is a clock.
    assert all(len({job_id[place] for job_id in ids}) > 4 for place in range(26))


@covers("UWS-54", "UWS-57", "UWS-18", "UWS-15", "UWS-16", "UWS-66")
@pytest.mark.parametrize("where", ["body", "query"])
def test_control_words_at_creation(client: Client, world: World, where: str) -> None:
    fields = {
        "pHaSe": "RUN",
        "RUNID": "survey <12>",
        "ExecutionDuration": "120",
        "DESTRUCTION": "2026-11-20T00:00:00.000000Z",
        "scale": "2",
    }
    given: dict[str, Any] = {"data" if where == "body" else "query_string": fields}
    path = client.create(**given)
    root = client.xml(path)
    assert list(texts(root, "phase")) == ["QUEUED"]
    assert list(texts(root, "runId")) == ["survey <12>"]
    assert list(texts(root, "executionDuration")) == ["120"]
    assert list(texts(root, "destruction")) == ["2026-11-20T00:00:00.000Z"]
    assert list(texts(root, "parameter")) == ["2"]
    assert world.queue.woken == ["local"]
    assert len([event for event in world.store.events("", 0) if event.kind == "phase"]) == 1  # in one step


@covers("UWS-18")
def test_jobs_may_share_a_run_id(client: Client) -> None:
    paths = [client.create(data={"RUNID": "night"}) for _ in range(2)]
    assert [list(texts(client.xml(path), "runId")) for path in paths] == [["night"], ["night"]]


@covers("UWS-57", "UWS-09", "3:bad-control")
@pytest.mark.parametrize(
    "fields",
    [
        {"PHASE": "ABORT"},
        {"PHASE": "run"},
        {"PHASE": ""},
        {"EXECUTIONDURATION": "-1"},
        {"EXECUTIONDURATION": "1.5"},
        {"EXECUTIONDURATION": "2147483648"},
        {"EXECUTIONDURATION": "٣"},
        {"DESTRUCTION": "tomorrow"},
        {"DESTRUCTION": "2026-11-20T00:00:00+01:00"},
        {"RUNID": "x" * 65},
        {"RUNID": "a\x00b"},
        {"WAIT": "10"},
        {"AFTER": "2026"},
        {"LAST": "1"},
        {"ACTION": "DELETE"},
        {"PHASE": ["RUN", "RUN"]},
    ],
)
def test_bad_control_words_make_no_job(client: Client, world: World, fields: dict[str, Any]) -> None:
    assert client.post("/stack/async", data=fields).status_code == 400
    assert client.json("/stack/async")["jobs"] == []
    assert world.queue.woken == []


@covers("UWS-09", "DALI-08", "3:bad-parameter", "3:bad-plain-sentence", "DALI-07")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scal": "1"}, ["'scal'", "did you mean scale"]),
        ({"scale": "wide"}, ["scale", "a number from 0", "arcsec"]),
        ({"scale": ["1", "2"]}, ["scale", "only once"]),
        ({"band": "V"}, ["band", "R, B"]),
    ],
)
def test_a_bad_parameter_is_named_with_what_it_accepts(
    client: Client, fields: dict[str, Any], words: list[str]
) -> None:
    response = client.post("/stack/async", data=fields)
    assert response.status_code == 400
    for word in words:
        assert word in response.text
    assert client.json("/stack/async")["jobs"] == []


@covers("DALI-06")
def test_names_ignore_case_and_values_do_not(client: Client) -> None:
    root = client.xml(client.create(data={"SCALE": "1.5", "Note": "MiXed"}))
    assert {element.get("id"): element.text for element in root.iter(f"{UWS}parameter")} == {
        "scale": "1.5",
        "note": "MiXed",
    }
    assert client.post("/stack/async", data={"band": "r"}).status_code == 400


@covers("UWS-64", "UWS-60", "UWS-63")
def test_parameters_come_back_as_they_were_sent(client: Client) -> None:
    value = 'a < b & "c"\r\n\t é 𝄞'
    root = client.xml(client.create(data={"tile": ["t2", "t1", "t2"], "note": value}))
    assert [e.text for e in root.iter(f"{UWS}parameter") if e.get("id") == "tile"] == ["t2", "t1", "t2"]
    assert [e.text for e in root.iter(f"{UWS}parameter") if e.get("id") == "note"] == [value]


@covers("UWS-60", "UWS-63")
def test_a_long_value_goes_by_reference(client: Client) -> None:
    value = "x" * 9000
    path = client.create(data={"query": value})
    element = next(client.xml(path).iter(f"{UWS}parameter"))
    assert element.get("byReference") == "true"
    assert element.text == f"{BASE}{path}/parameters/query"
    assert client.get(f"{path}/parameters/query").text == value


@covers("3:idempotency-key")
def test_the_same_idempotency_key_gives_the_same_job(client: Client) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = client.create(data={"scale": "1"}, headers=headers)
    assert client.create(data={"scale": "1"}, headers=headers) == first
    other = client.post("/stack/async", data={"scale": "2"}, headers=headers)
    assert other.status_code == 409
    assert len(client.json("/stack/async")["jobs"]) == 1
    assert client.post("/stack/async", headers={"Idempotency-Key": "a b"}).status_code == 400


@covers("3:idempotency-key", "UWS-68")
@pytest.mark.parametrize("forgotten", [False, True])
def test_a_request_repeated_after_its_job_was_deleted_is_refused(
    client: Client, world: World, forgotten: bool
) -> None:
    """At first the record of a deleted job is still there, then it is not: the client sees no difference."""
    headers = {"Idempotency-Key": "k-1"}
    path = client.create(data={"scale": "1"}, headers=headers)
    client.delete(path)
    job_id = path.rpartition("/")[2]
    if forgotten:
        world.store.cleared(job_id, world.store.get(job_id), forget=True)
    repeated = client.post("/stack/async", data={"scale": "1"}, headers=headers)
    assert repeated.status_code == 409
    assert "deleted" in repeated.text
    assert client.json("/stack/async")["jobs"] == []


@covers("UWS-09", "VOSI-04")
def test_a_draining_server_takes_no_new_jobs(client: Client, world: World) -> None:
    path = client.create()
    world.draining = True
    refused = client.post("/stack/async")
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert client.get(path).status_code == 200


# -- reading -------------------------------------------------------------------------------------------


@covers("UWS-14", "UWS-17", "UWS-19", "UWS-20", "UWS-21", "UWS-30", "UWS-01")
def test_a_pending_job_has_everything_and_knows_little(client: Client) -> None:
    root = client.xml(client.create())
    assert root.get("version") == "1.1"
    for name in ("ownerId", "quote", "startTime", "endTime"):
        (element,) = root.findall(f"{UWS}{name}")
        assert (element.get(NIL), element.text) == ("true", None)
    (created,) = texts(root, "creationTime")
    assert created == to_iso(START)
    for name in ("executionDuration", "creationTime", "phase"):
        assert root.find(f"{UWS}{name}").get(NIL) is None  # type: ignore[union-attr]
    assert root.find(f"{UWS}runId") is None
    assert len(root.findall(f"{UWS}results")) == len(root.findall(f"{UWS}parameters")) == 1


@covers("UWS-19")
def test_the_owner_is_who_made_the_job(client: Client) -> None:
    me = {"X-User": "astro1"}
    path = client.create(headers=me)
    assert list(texts(client.xml(path, headers=me), "ownerId")) == ["astro1"]
    assert client.get(f"{path}/owner", headers=me).data == b"astro1"


@covers("UWS-73", "UWS-75", "UWS-17", "UWS-16", "UWS-19")
def test_atoms_are_exact_bytes(client: Client, world: World) -> None:
    path = client.create(data={"EXECUTIONDURATION": "77"})
    expected = {
        "phase": b"PENDING",
        "executionduration": b"77",
        "destruction": to_iso(START + 30 * 86_400_000).encode(),
        "quote": b"",
        "owner": b"",
    }
    for name, body in expected.items():
        response = client.get(f"{path}/{name}")
        assert (response.status_code, response.data) == (200, body)
        assert response.content_type.startswith("text/plain")
    job = world.in_phase(Phase.COMPLETED, destruction=None, quote=START)
    assert client.get(f"/stack/async/{job.id}/destruction").data == b""
    assert client.get(f"/stack/async/{job.id}/quote").data == to_iso(START).encode()
    root = client.xml(f"/stack/async/{job.id}")
    assert root.find(f"{UWS}destruction").get(NIL) == "true"  # type: ignore[union-attr]


@covers("UWS-73", "UWS-74", "UWS-76", "UWS-77", "3:json")
@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        (None, False),
        ("*/*", False),
        ("text/plain", False),
        ("application/xml,text/plain", False),
        ("text/html, image/gif, image/jpeg, */*; q=0.2", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/*", False),
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/json;q=0.5, text/xml", False),
        ("application/xml;q=0.4, application/json;q=0.5", True),
        ("application/json;q=0", False),
        ("application/json, application/xml", False),
        ("text/json", False),
        (";;;,,q=1", False),
    ],
)
def test_xml_unless_json_is_liked_better(client: Client, accept: str | None, json_wanted: bool) -> None:
    path = client.create()
    headers = {} if accept is None else {"Accept": accept}
    for place in ("/stack/async", path, f"{path}/results", f"{path}/parameters"):
        response = client.get(place, headers=headers)
        assert response.status_code == 200
        assert response.mimetype == ("application/json" if json_wanted else "text/xml")
        assert b"<html" not in response.data


@covers("UWS-52")
@pytest.mark.parametrize("sub", ["", "/phase", "/results", "/parameters", "/destruction", "/owner"])
def test_nothing_of_a_job_is_cached(client: Client, sub: str) -> None:
    assert client.get(client.create() + sub).headers["Cache-Control"] == "no-store"
    assert client.get("/stack/async").headers["Cache-Control"] == "no-store"


@covers("UWS-05", "DALI-12", "3:bad-unknown", "DALI-01", "UWS-03", "UWS-23", "UWS-71")
def test_what_is_not_there_is_404(client: Client) -> None:
    path = client.create()
    for place in (
        "/nosuch/async",
        "/nosuch/async/1",
        "/stack/async/00000000000000000000000000",
        "/notebook" + path.removeprefix("/stack"),  # of another service
        f"{path}/nosuch",
        f"{path}/Phase",
        f"{path}/PHASE",
        f"{path}/results/result",
        f"{path}/results/../../x",
        f"{path}/results/..%2f..%2fetc%2fpasswd",
        f"{path}/parameters/nosuch",
        f"{path}/parameters/../phase/x",
        f"{path}/error",
        "/stack/tables",
        "/stack/examples",
        "/nosuch/sync",
        "/nosuch/capabilities",
        "/nosuch/availability",
        "/stack/sync/00000000000000000000000000",
    ):
        assert client.get(place).status_code == 404, place
    assert client.post("/nosuch/async").status_code == 404
    assert client.post("/stack/async/1/phase", data={"PHASE": "RUN"}).status_code == 404


@covers("3:uws-resources", "UWS-11", "UWS-12", "UWS-41", "UWS-22", "VOSI-01")
def test_other_methods_are_405_with_allow(client: Client, world: World) -> None:
    job = world.in_phase(Phase.COMPLETED)
    path = f"/stack/async/{job.id}"
    for place, allowed in (
        ("/stack/async", {"GET", "HEAD", "POST"}),
        (path, {"GET", "HEAD", "POST", "DELETE"}),
        (f"{path}/phase", {"GET", "HEAD", "POST"}),
        (f"{path}/quote", {"GET", "HEAD"}),
        (f"{path}/owner", {"GET", "HEAD"}),
        (f"{path}/error", {"GET", "HEAD"}),
        (f"{path}/results", {"GET", "HEAD"}),
        (f"{path}/results/table", {"GET", "HEAD"}),
        (f"{path}/parameters", {"GET", "HEAD", "POST"}),
        (f"{path}/parameters/scale", {"GET", "HEAD", "PUT"}),
        ("/stack/sync", {"GET", "HEAD", "POST"}),
        ("/stack/capabilities", {"GET", "HEAD"}),
        ("/stack/availability", {"GET", "HEAD"}),
        ("/services", {"GET", "HEAD"}),
    ):
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - allowed:
            response = client.open(place, method)
            assert response.status_code == 405, (place, method)
            assert set(response.headers["Allow"].split(", ")) == allowed
    assert client.get(path).status_code == 200


@covers("UWS-11")
def test_head_works_wherever_get_does(client: Client, world: World) -> None:
    job = world.in_phase(Phase.ERROR)
    path = f"/stack/async/{job.id}"
    for place in (
        *(
            "/",
            "/services",
            "/openapi.json",
            "/healthz",
            "/readyz",
            "/stack/async",
            "/stack/capabilities",
            "/stack/availability",
        ),
        *(path, f"{path}?WAIT=-1", f"{path}/phase", f"{path}/executionduration", f"{path}/destruction"),
        *(f"{path}/quote", f"{path}/owner", f"{path}/error", f"{path}/results", f"{path}/parameters"),
        *(f"{path}/parameters/scale", f"{path}/results/stdout"),
    ):
        got, asked = client.get(place), client.head(place)
        assert (asked.status_code, asked.data) == (got.status_code, b"") == (200, b"")
        assert asked.content_type == got.content_type
        assert asked.headers.get("Content-Length") == got.headers.get("Content-Length")


def test_a_slash_at_the_end_changes_nothing(client: Client) -> None:
    created = client.post("/stack/async/", data={"scale": "1"})
    assert created.status_code == 303
    path = local(created)
    assert client.get(f"{path}/").data == client.get(path).data
    assert client.post(f"{path}/phase/", data={"PHASE": "RUN"}).status_code == 303


@covers("UWS-10", "UWS-78")
def test_of_somebody_else_nothing_is_seen(client: Client, world: World) -> None:
    me, you = {"X-User": "astro1"}, {"X-User": "astro2"}
    job = world.in_phase(Phase.ERROR, owner="astro1")
    path = f"/stack/async/{job.id}"
    subs = ("", "/phase", "/executionduration", "/destruction", "/quote", "/owner", "/error", "/results")
    for sub in (*subs, "/parameters", "/parameters/scale", "/parameters/mask", "/results/stdout"):
        assert client.get(path + sub, headers=you).status_code == 403
        assert client.get(path + sub).status_code == 403
    assert client.get(f"{path}?WAIT=-1", headers=you).status_code == 403
    for sub, fields in (
        ("/phase", {"PHASE": "ABORT"}),
        ("/executionduration", {"EXECUTIONDURATION": "1"}),
        ("/destruction", {"DESTRUCTION": "2030"}),
        ("/parameters", {"scale": "1"}),
        ("", {"ACTION": "DELETE"}),
        ("", {"PHASE": "ABORT"}),
    ):
        assert client.post(path + sub, data=fields, headers=you).status_code == 403
    assert client.put(f"{path}/parameters/scale", data=b"1", headers=you).status_code == 403
    assert client.delete(path, headers=you).status_code == 403
    assert world.store.get(job.id) == job
    assert list(texts(client.xml("/stack/async", headers=me), "phase")) == ["ERROR"]
    assert list(texts(client.xml("/stack/async", headers=you), "phase")) == []
    assert client.get(f"/stack/sync/{job.id}", headers=you).status_code == 403


# -- the list ------------------------------------------------------------------------------------------


def ids(client: Client, query: str = "") -> list[str | None]:
    return [ref.get("id") for ref in client.xml(f"/stack/async{query}").iter(f"{UWS}jobref")]


@covers("UWS-33", "UWS-34", "UWS-42", "UWS-01", "UWS-19")
def test_the_list_shows_every_job_but_archived_ones(client: Client, world: World) -> None:
    jobs = {phase: world.in_phase(phase, created=START + n) for n, phase in enumerate(Phase)}
    root = client.xml("/stack/async")
    assert root.get("version") == "1.1"
    newest_first = [job.id for phase, job in reversed(jobs.items()) if phase in LISTED]
    assert [ref.get("id") for ref in root] == newest_first
    first = root[0]
    assert first.get(f"{XLINK}href") == f"{BASE}/stack/async/{first.get('id')}"
    assert [child.tag.removeprefix(UWS) for child in first] == ["phase", "runId", "ownerId", "creationTime"]


@covers("UWS-33")
def test_an_empty_list_is_a_list(client: Client) -> None:
    root = client.xml("/stack/async")
    assert root.tag == f"{UWS}jobs"
    assert len(root) == 0


@covers("UWS-35", "UWS-36", "UWS-37", "UWS-38", "UWS-32", "3:uws-filters")
def test_filters(client: Client, world: World) -> None:
    phases = [Phase.PENDING, Phase.ERROR, Phase.PENDING, Phase.ARCHIVED, Phase.ERROR, Phase.COMPLETED]
    made = [world.in_phase(phase, created=START + 1000 * n).id for n, phase in enumerate(phases)]
    assert ids(client, "?PHASE=PENDING") == [made[2], made[0]]
    assert ids(client, "?PHASE=PENDING&phase=COMPLETED") == [made[5], made[2], made[0]]
    assert ids(client, "?PHASE=ARCHIVED") == [made[3]]
    assert ids(client, f"?AFTER={to_iso(START + 2000)}") == [made[5], made[4]]
    assert ids(client, "?LAST=2") == [made[5], made[4]]
    assert ids(client, "?LAST=1&PHASE=PENDING") == [made[2]]
    assert ids(client, f"?LAST=5&PHASE=ERROR&AFTER={to_iso(START + 1000)}") == [made[4]]
    assert ids(client, "?AFTER=2027") == []
    for text in ("2026", "20261103", "2026-11-03", "2026-11-03%2008:59", "2026-11-03T08:59:58.120000Z"):
        assert made[5] in ids(client, f"?AFTER={text}")


@covers("UWS-39", "3:bad-control")
@pytest.mark.parametrize(
    "query",
    [
        *("PHASE=running", "PHASE=RUNNING", "PHASE=", "LAST=0", "LAST=-1", "LAST=x", "LAST=1.5", "LAST="),
        *("LAST=1&LAST=2", "LAST=1&last=1", "AFTER=x", "AFTER=", "AFTER=2026&AFTER=2027"),
        *(
            "AFTER=2026-11-03T00:00:00%2B01:00",
            "AFTER=2026-13",
            "CURSOR=x",
            "CURSOR=1-x",
            "LAST=%D9%A3",
            "PHASE=%FF",
        ),
    ],
)
def test_bad_filters_are_400(client: Client, query: str) -> None:
    assert client.get(f"/stack/async?{query}").status_code == 400


def test_json_pages_lead_through_the_whole_list(client: Client, world: World) -> None:
    made = [world.in_phase(Phase.PENDING, created=START + n // 2).id for n in range(7)]  # some at one instant
    world.in_phase(Phase.ERROR)
    seen: list[str] = []
    address: str | None = "/stack/async?LAST=3&PHASE=PENDING"
    while address:
        page = client.json(address.removeprefix(BASE))
        seen += [job["jobId"] for job in page["jobs"]]
        assert len(page["jobs"]) <= 3
        address = page["next"]
    assert sorted(seen) == sorted(made)
    assert len(set(seen)) == 7


def test_the_xml_list_is_bounded() -> None:
    from uws_server.service.jobs import RequestLimits

    world = World(limits=RequestLimits(list_jobs=3))
    for n in range(5):
        world.in_phase(Phase.PENDING, created=START + n)
    assert len(ids(world.client())) == 3
    assert len(ids(world.client(), "?LAST=4")) == 3


# -- phases --------------------------------------------------------------------------------------------


@covers("UWS-25", "UWS-06", "UWS-65", "3:bad-phase")
@pytest.mark.parametrize("phase", list(Phase))
def test_run_only_what_has_not_started(client: Client, world: World, phase: Phase) -> None:
    job = world.in_phase(phase)
    response = post(client, f"/stack/async/{job.id}/phase", PHASE="RUN")
    if phase in UNSTARTED:
        assert local(response) == f"/stack/async/{job.id}"
        assert client.get(f"/stack/async/{job.id}/phase").data == b"QUEUED"
    else:
        assert response.status_code == 403
        assert world.store.get(job.id) == job


@covers("UWS-25", "3:uws-resources")
def test_run_is_obeyed_though_its_reply_was_lost_and_a_worker_is_quicker_than_its_repetition(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = client.create()
    change = world.store.change

    def repeated(before: Job, after: Job, lease: Lease | None = None) -> bool:
        monkeypatch.undo()
        assert change(before, after, lease)
        assert world.store.claim("local", ROOM, 60)
        return change(before, after, lease)

    monkeypatch.setattr(world.store, "change", repeated)
    assert client.post(f"{path}/phase", data={"PHASE": "RUN"}).status_code == 303
    assert client.post(f"{path}/phase", data={"PHASE": "RUN"}).status_code == 403


@covers("UWS-26", "UWS-06", "UWS-28", "UWS-21", "3:bad-phase")
@pytest.mark.parametrize("phase", list(Phase))
def test_abort_whatever_is_unfinished(client: Client, world: World, phase: Phase) -> None:
    job = world.in_phase(phase)
    response = post(client, f"/stack/async/{job.id}/phase", PHASE="ABORT")
    after = world.store.get(job.id)
    assert after is not None
    if phase in ABORTABLE:
        assert response.status_code == 303
        assert after.phase is Phase.ABORTED
        assert after.ended is not None
        assert after.parameters == job.parameters
        assert after.results == job.results
    elif phase is Phase.ABORTED:
        assert response.status_code == 303
        assert after == job
    else:
        assert response.status_code == 403
        assert after == job


@covers("UWS-27", "UWS-67", "3:bad-control")
@pytest.mark.parametrize("value", ["run", "Run", "ABORTED", "PENDING", "", "RUN ", "SUSPEND"])
def test_other_phases_cannot_be_asked_for(client: Client, value: str) -> None:
    path = client.create()
    assert post(client, f"{path}/phase", PHASE=value).status_code == 400
    assert client.get(f"{path}/phase").data == b"PENDING"


@covers("UWS-65")
@pytest.mark.parametrize("way", ["lower", "query", "multipart", "json", "job"])
def test_the_phase_may_be_said_in_many_ways(client: Client, way: str) -> None:
    path = client.create()
    if way == "lower":
        response = client.post(f"{path}/phase", data={"phase": "RUN"})
    elif way == "query":
        response = client.post(f"{path}/phase?PHASE=RUN")
    elif way == "multipart":
        response = client.post(f"{path}/phase", data={"PHASE": "RUN"}, content_type="multipart/form-data")
    elif way == "json":
        response = client.post(f"{path}/phase", json={"phase": "RUN"})
    else:
        response = client.post(path, data={"PHASE": "RUN"})
    assert response.status_code == 303
    assert local(response) == path
    assert client.get(f"{path}/phase").data == b"QUEUED"


# -- other changes -------------------------------------------------------------------------------------


@covers("UWS-65", "UWS-66", "UWS-15", "UWS-16", "UWS-31", "UWS-32", "DALI-09")
def test_duration_and_destruction_change(client: Client) -> None:
    path = client.create()
    for sub, fields, expected in (
        ("executionduration", {"EXECUTIONDURATION": "60"}, b"60"),
        ("executionduration", {"executionduration": "999999"}, b"7200"),  # clipped to the ceiling
        ("destruction", {"DESTRUCTION": "2026-12-31T23:59:59.123456Z"}, b"2026-12-31T23:59:59.123Z"),
        ("destruction", {"DESTRUCTION": "2026-12-30 12:00"}, b"2026-12-30T12:00:00.000Z"),
        ("destruction", {"DESTRUCTION": "20270101"}, b"2027-01-01T00:00:00.000Z"),
    ):
        response = client.post(f"{path}/{sub}", data=fields)
        assert local(response) == path
        assert client.get(f"{path}/{sub}").data == expected
    late = to_iso(START + 400 * 86_400_000)
    assert client.post(f"{path}/destruction", data={"DESTRUCTION": late}).status_code == 303
    assert client.get(f"{path}/destruction").text < late


@covers("UWS-67", "UWS-32", "3:bad-control")
@pytest.mark.parametrize(
    ("sub", "fields"),
    [
        ("phase", {}),
        ("phase", {"PHASE": ["RUN", "ABORT"]}),
        ("executionduration", {}),
        ("executionduration", {"EXECUTIONDURATION": "ten"}),
        ("executionduration", {"EXECUTIONDURATION": "-5"}),
        ("executionduration", {"EXECUTIONDURATION": "1e3"}),
        ("destruction", {}),
        ("destruction", {"DESTRUCTION": ""}),
        ("destruction", {"DESTRUCTION": "2026-02-30"}),
        ("destruction", {"DESTRUCTION": "2026-11-03T00:00:00-05:00"}),
    ],
)
def test_unreadable_changes_are_400(client: Client, world: World, sub: str, fields: dict[str, Any]) -> None:
    path = client.create()
    before = world.store.get(path.rpartition("/")[2])
    assert client.post(f"{path}/{sub}", data=fields).status_code == 400
    assert world.store.get(path.rpartition("/")[2]) == before


@covers("UWS-67")
def test_a_destruction_in_the_past_means_now(client: Client, world: World) -> None:
    from uws_server.store.base import Due

    path = client.create()
    assert client.post(f"{path}/destruction", data={"DESTRUCTION": "2001"}).status_code == 303
    assert world.store.due(Due.DESTRUCTION, world.clock()) == [path.rpartition("/")[2]]


@covers("UWS-62", "DALI-04", "3:parameters-pending")
def test_the_job_url_takes_control_words_and_no_parameters(client: Client) -> None:
    path = client.create(data={"scale": "1"})
    assert client.post(path, data={"executionDuration": "99"}).status_code == 303
    assert client.get(f"{path}/executionduration").data == b"99"
    assert client.post(path, data={"destruction": "2026-12-01"}).status_code == 303
    assert client.get(f"{path}/destruction").data == b"2026-12-01T00:00:00.000Z"
    assert client.post(path, data={"scale": "2"}).status_code == 403
    assert client.post(path, data={"PHASE": "RUN", "scale": "2"}).status_code == 403
    assert client.post(path, data={"RUNID": "x"}).status_code == 403
    assert client.post(path, data={}).status_code == 400
    assert client.post(path, data={"PHASE": "RUN", "EXECUTIONDURATION": "5"}).status_code == 400
    assert client.post(path, data={"ACTION": "delete"}).status_code == 400
    assert client.get(f"{path}/phase").data == b"PENDING"
    assert client.get(f"{path}/parameters/scale").data == b"1"


@covers("UWS-61", "UWS-62", "DALI-04", "UWS-06", "3:parameters-pending")
def test_parameters_change_while_pending(client: Client) -> None:
    path = client.create(data={"scale": "1", "tile": ["a", "b"]})
    assert local(client.post(f"{path}/parameters", data={"SCALE": "2", "note": "new"})) == path
    assert local(client.put(f"{path}/parameters/tile", data=b"c")) == path
    assert client.post(f"{path}/parameters", json={"parameters": {"band": "R"}}).status_code == 303
    assert client.post(f"{path}/parameters", json={"query": "q"}).status_code == 303
    found = {entry["id"]: entry["value"] for entry in client.json(f"{path}/parameters")}
    assert found == {"scale": "2", "tile": "c", "note": "new", "band": "R", "query": "q"}
    validate(client.get(f"{path}/parameters").data)
    for bad in ({"scale": "wide"}, {"nosuch": "1"}, {"PHASE": "RUN"}, {}):
        assert client.post(f"{path}/parameters", data=bad).status_code == 400
    assert client.put(f"{path}/parameters/PHASE", data=b"RUN").status_code == 400
    assert client.put(f"{path}/parameters/nosuch", data=b"1").status_code == 400
    post(client, f"{path}/phase", PHASE="RUN")
    assert client.post(f"{path}/parameters", data={"scale": "3"}).status_code == 403
    assert client.put(f"{path}/parameters/scale", data=b"3").status_code == 403
    assert client.get(f"{path}/parameters/scale").data == b"2"


@covers("UWS-60", "UWS-61", "UWS-56")
def test_put_of_a_file(client: Client) -> None:
    path = client.create()
    content = bytes(range(256)) * 1000
    put = client.put(f"{path}/parameters/mask", data=content, content_type="application/fits")
    assert put.status_code == 303
    response = client.get(f"{path}/parameters/mask")
    assert response.data == content
    assert response.mimetype == "application/fits"
    assert client.put(f"{path}/parameters/mask", data=b"https://data.example/m.fits").status_code == 303
    assert client.get(f"{path}/parameters/mask").data == b"https://data.example/m.fits"


@covers("UWS-68", "UWS-40", "UWS-69", "UWS-12")
@pytest.mark.parametrize("way", ["DELETE", "POST"])
@pytest.mark.parametrize("phase", list(Phase))
def test_deleting(client: Client, world: World, way: str, phase: Phase) -> None:
    job = world.in_phase(phase)
    path = f"/stack/async/{job.id}"
    response = client.delete(path) if way == "DELETE" else post(client, path, action="DELETE")
    assert response.status_code == 303
    assert response.headers["Location"].startswith(f"{BASE}/stack/async?LAST=")
    assert client.get(local(response)).status_code == 200
    for sub in ("", "/phase", "/results", "/parameters", "/results/stdout"):
        assert client.get(path + sub).status_code == 404
    assert ids(client, "?" + "&".join(f"PHASE={one}" for one in Phase)) == []
    assert client.delete(path).status_code == 404


# -- failures ------------------------------------------------------------------------------------------


@covers("UWS-08", "UWS-23", "UWS-70", "UWS-71", "UWS-72", "DALI-14", "DALI-15", "3:error-resource")
def test_a_failed_job_is_read_like_any_other(client: Client, world: World) -> None:
    job = world.in_phase(Phase.ERROR)
    path = f"/stack/async/{job.id}"
    root = client.xml(path)
    assert list(texts(root, "phase")) == ["ERROR"]
    (summary,) = root.findall(f"{UWS}errorSummary")
    assert (summary.get("type"), summary.get("hasDetail")) == ("fatal", "true")
    (message,) = texts(root, "message")
    assert message == "Cell 4 of the notebook raised KeyError: 'flux'"
    response = client.get(f"{path}/error")
    assert (response.status_code, response.mimetype) == (200, "text/plain")
    assert response.text == f"{message}\n\nTraceback"
    assert client.json(path)["errorSummary"] == {"type": "fatal", "message": message, "hasDetail": True}


@covers("UWS-71", "UWS-23")
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ERROR])
def test_no_error_no_document(client: Client, world: World, phase: Phase) -> None:
    job = world.in_phase(phase)
    assert client.get(f"/stack/async/{job.id}/error").status_code == 404
    assert client.xml(f"/stack/async/{job.id}").find(f"{UWS}errorSummary") is None


class _Broken:
    """A store that fails in a given way at every call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise self._error

        return fail


@covers("UWS-07", "UWS-09", "3:bad-plain-sentence")
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreUnavailable("redis at 10.0.0.1 is down"), 503),
        (StorageUnavailable("bucket secret-name"), 503),
        (Unavailable("try again"), 503),
    ],
)
def test_what_does_not_answer_is_503(world: World, error: Exception, status: int) -> None:
    response = world.client(jobs=_Broken(error)).get("/stack/async/1")
    assert response.status_code == status
    assert int(response.headers["Retry-After"]) > 0
    assert "10.0.0.1" not in response.text
    assert "secret-name" not in response.text


@covers("UWS-07")
def test_a_fault_of_ours_is_500_with_a_number_for_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.app(jobs=_Broken(RuntimeError("a secret"))).test_client()
    response = client.get("/stack/async/1")
    assert response.status_code == 500
    assert response.mimetype == "text/plain"
    assert "a secret" not in response.text
    assert "RuntimeError" not in response.text
    number = response.text.rpartition(" ")[2]
    assert number in caplog.text
    assert "a secret" in caplog.text


@covers("DALI-13", "DALI-15")
def test_refusals_are_json_for_json_clients(client: Client) -> None:
    response = client.get("/stack/async/1", headers={"Accept": "application/json"})
    assert response.status_code == 404
    assert response.get_json()["error"].startswith("there is no job")


@covers("UWS-13")
def test_without_a_base_url_the_clients_own_is_used() -> None:
    client = World(base_url="").app().test_client()
    response = client.post("/stack/async", headers={"Host": "localhost:8080"})
    assert response.headers["Location"].startswith("http://localhost:8080/stack/async/")
    bad = client.post("/stack/async", headers={"Host": 'a"><script>'})
    assert bad.status_code == 400


@covers("UWS-77", "3:json")
@pytest.mark.parametrize("phase", list(Phase))
def test_json_is_what_the_models_say(client: Client, world: World, phase: Phase) -> None:
    from uws_server.web.models import JobEntry, JobList

    job = world.in_phase(phase)
    document = client.json(f"/stack/async/{job.id}")
    entry = JobEntry.model_validate_json(json.dumps(document))
    assert entry.model_dump(by_alias=True, exclude_unset=True) == document
    assert (entry.job_id, entry.phase) == (job.id, phase)
    JobList.model_validate_json(
        client.get(f"/stack/async?PHASE={phase}", headers={"Accept": "application/json"}).data
    )


@covers("UWS-24", "UWS-29")
def test_events_that_come_late_change_nothing_that_is_seen(client: Client, world: World) -> None:
    path = client.create(data={"PHASE": "RUN"})
    job_id = path.rpartition("/")[2]
    world.apply(job_id, events.AbortRequested())
    before = client.get(path).data
    world.apply(job_id, events.Succeeded(1, START, (), (0, 0)), events.Started(1, START))
    assert client.get(path).data == before
    assert Phase.ABORTED in TERMINAL
