"""VOSI, /services, OpenAPI, the page for people, and the synchronous side."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import pytest
from lxml import etree
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.waiting import PATIENCE
from tests.web.world import BASE, Client, World, local, standard_capabilities, validate
from uws_server.domain import events
from uws_server.domain.job import ErrorSummary
from uws_server.domain.phase import Phase
from uws_server.storage.base import StorageUnavailable
from uws_server.store.base import StoreUnavailable
from uws_server.web.parts import Bounds

covers = pytest.mark.covers
VOSI = "{http://www.ivoa.net/xml/VOSIAvailability/v1.0}"


@covers("VOSI-01", "VOSI-02", "VOSI-03", "VOSI-05", "VOSI-06", "VOSI-07", "UWS-04", "3:vosi")
def test_capabilities(client: Client) -> None:
    response = client.get("/stack/capabilities")
    assert response.headers["Last-Modified"]
    root = validate(response.data)
    standard = standard_capabilities()
    if standard is not None:
        standard.validate(etree.tostring(root).decode())
    found: dict[str | None, list[tuple[str | None, str | None]]] = {}
    for capability in root:
        assert capability.find(".//securityMethod") is None
        found[capability.get("standardID")] = [
            (url.get("use"), url.text) for url in capability.iterfind("interface/accessURL")
        ]
    assert found == {
        "ivo://ivoa.net/std/VOSI#capabilities": [("full", f"{BASE}/stack/capabilities")],
        "ivo://ivoa.net/std/VOSI#availability": [("full", f"{BASE}/stack/availability")],
        "ivo://ivoa.net/std/UWS#rest-1.1": [("base", f"{BASE}/stack/async")],
        None: [("base", f"{BASE}/stack/sync")],
    }
    assert client.get("/stack/capabilities", headers={"X-User": "somebody"}).data == response.data


class _Down:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise self._error

        return fail


@covers("VOSI-04", "VOSI-01", "VOSI-02", "3:vosi")
@pytest.mark.parametrize("state", ["well", "store", "objects", "draining"])
def test_availability_asks_what_is_behind(world: World, state: str) -> None:
    changes: dict[str, Any] = {
        "store": {"store": _Down(StoreUnavailable("x"))},
        "objects": {"objects": _Down(StorageUnavailable("x"))},
    }.get(state, {})
    world.draining = state == "draining"
    client = world.client(**changes)
    response = client.get("/stack/availability")
    assert response.status_code == 200
    root = validate(response.data)
    assert root.findtext(f"{VOSI}available") == ("true" if state == "well" else "false")
    assert (root.find(f"{VOSI}upSince") is not None) == (state == "well")
    assert root.findtext(f"{VOSI}note")


@covers("3:services")
def test_services_are_listed_with_typed_parameters(client: Client) -> None:
    services = {service["name"]: service for service in client.json("/services")["services"]}
    assert set(services) >= {"stack", "notebook", "lightcurve", "script", "container"}
    stack = services["stack"]
    assert stack["async"] == f"{BASE}/stack/async"
    (scale,) = [parameter for parameter in stack["parameters"] if parameter["name"] == "scale"]
    assert (scale["type"], scale["unit"], scale["min"], scale["max"]) == ("number", "arcsec", 0, 10)
    assert stack["parameter_schema"]["properties"]["band"]["enum"] == ["R", "B"]


@covers("3:openapi")
def test_the_openapi_document_is_valid_and_covers_every_route(world: World, client: Client) -> None:
    document = client.json("/openapi.json")
    OpenAPIV31SpecValidator(document).validate()
    assert document["servers"] == [{"url": BASE}]
    routes = {
        rule.rule
        for rule in world.app().url_map.iter_rules()
        if rule.endpoint.startswith(("jobs.", "job.", "parameters.", "results.", "sync.start"))
    }
    for route in routes - {"/<service>/async/<job_id>/parameters/<path:name>"}:
        path = (
            route.replace("<service>", "stack")
            .replace("<job_id>", "{jobId}")
            .replace("<path:result_id>", "{resultId}")
        )
        assert path in document["paths"], route
    schemas = document["components"]["schemas"]
    assert schemas["StackParameters"]["properties"]["scale"]["maximum"] == 10
    assert set(schemas["NewJob"]["properties"]) == {
        *("parameters", "run", "runId", "executionDuration", "destruction"),
    }


@covers("UWS-74")
def test_the_page_for_people_escapes_what_templates_say(client: Client) -> None:
    response = client.get("/")
    assert response.mimetype == "text/html"
    assert "Stack tiles" in response.text
    assert "&lt;b&gt;for tests&lt;/b&gt;" in response.text
    assert f"{BASE}/stack/async" in response.text
    assert client.get("/static/page.css").status_code == 200


# -- sync ----------------------------------------------------------------------------------------------


def fate(world: World, event_of: Any) -> threading.Thread:
    """Run every job that is queued to an end, from another thread."""

    def run() -> None:
        seen = ""
        for _ in range(100):
            for event in world.store.events(seen, timeout=0.2):
                seen = event.id
                if event.phase == "QUEUED":
                    world.apply(event.job_id, events.Started(1, world.clock()), event_of(event.job_id))
                    return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.fixture
def reading_world() -> Any:
    world = World(bounds=Bounds(wait_seconds=100))
    reader = threading.Thread(target=world.waiting.run)
    reader.start()
    yield world
    world.waiting.stop()
    world.in_phase(Phase.PENDING)
    reader.join(PATIENCE)


@covers("DALI-05", "3:sync", "DALI-10")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_sync_leads_to_the_result(reading_world: World, method: str) -> None:
    world, client = reading_world, reading_world.client()
    results = sample_results()

    def end(job_id: str) -> events.Event:
        world.objects.put(f"jobs/{job_id}/1/results/t.ecsv", b"x" * 3000)
        return events.Succeeded(1, world.clock(), results, (0, 0))

    thread = fate(world, end)
    fields: dict[str, Any] = {"query_string" if method == "GET" else "data": {"scale": "2"}}
    started = client.open("/stack/sync", method, **fields)
    assert started.status_code == 303
    followed = client.get(local(started))
    thread.join(PATIENCE)
    assert followed.status_code == 303
    assert followed.headers["Location"].endswith("/results/table")
    assert client.get(local(followed)).data == b"x" * 3000
    job = client.json("/stack/async?PHASE=COMPLETED")["jobs"]
    assert len(job) == 1  # an ordinary job, in the ordinary list


def sample_results() -> Any:
    from tests.web.world import sample

    return sample(Phase.COMPLETED).results[:1]


@covers("DALI-13", "3:sync")
@pytest.mark.parametrize(("transient", "status"), [(False, 400), (True, 503)])
def test_a_failed_sync_gives_an_error_document(
    client: Client, world: World, transient: bool, status: int
) -> None:
    job = world.in_phase(Phase.ERROR, error=ErrorSummary("the notebook has no cell 4", transient=transient))
    response = client.get(f"/stack/sync/{job.id}")
    assert (response.status_code, response.text) == (status, "the notebook has no cell 4")
    assert response.mimetype == "text/plain"


@covers("DALI-13", "DALI-05")
@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (Phase.ABORTED, 409),
        (Phase.ARCHIVED, 409),
        (Phase.HELD, 503),
        (Phase.SUSPENDED, 503),
        (Phase.UNKNOWN, 503),
    ],
)
def test_sync_of_a_job_that_will_not_end(client: Client, world: World, phase: Phase, status: int) -> None:
    response = client.get(f"/stack/sync/{world.in_phase(phase).id}")
    assert response.status_code == status
    assert phase in response.text


@covers("DALI-05", "3:sync")
def test_sync_hops_are_bounded_and_the_job_lives_on() -> None:
    world = World(bounds=Bounds(wait_seconds=0.05))
    client = world.client()
    response = client.post("/stack/sync", data={"scale": "1"})
    addresses = []
    while response.status_code == 303:
        addresses.append(response.headers["Location"])
        response = client.get(local(response))
    assert len(set(addresses)) == len(addresses) == 9
    assert response.status_code == 504
    assert "/stack/async/" in response.text
    job_id = addresses[0].rpartition("/")[2]
    assert client.get(f"/stack/async/{job_id}/phase").data == b"QUEUED"


@covers("DALI-05", "DALI-03", "UWS-11", "DALI-13")
def test_sync_refuses_as_creation_does_and_head_makes_nothing(client: Client) -> None:
    assert client.head("/stack/sync?scale=1").status_code == 200
    assert client.get("/stack/sync?nosuch=1").status_code == 400
    assert (
        client.post("/stack/sync", data={"scale": "x"}, content_type="multipart/form-data").status_code == 400
    )
    assert client.get("/stack/sync/1?HOP=x").status_code == 400
    assert client.json("/stack/async")["jobs"] == []


# -- the agents' door ----------------------------------------------------------------------------------


@pytest.fixture
def attempt(world: World) -> dict[str, Any]:
    from tests.web.world import SECRET
    from uws_server.domain.job import Workload
    from uws_server.service.door import agent_token

    job = world.in_phase(Phase.EXECUTING, workload=Workload.ACTIVE)
    return {"job": job, "headers": {"Authorization": f"Bearer {agent_token(SECRET, job.id, 1)}"}}


@covers("3:agent-progress", "3:agent-outputs")
def test_an_agent_reports_and_hands_in(client: Client, world: World, attempt: dict[str, Any]) -> None:
    job, headers = attempt["job"], attempt["headers"]
    assert client.post("/agent/v1/progress", json={"done": 4, "of": 10}, headers=headers).status_code == 204
    assert client.json(f"/stack/async/{job.id}")["progress"] == {"done": 4, "of": 10}
    wanted = [{"method": "PUT", "name": "results/t.ecsv", "size": 3}]
    response = client.post("/agent/v1/links", json={"objects": wanted}, headers=headers)
    (link,) = response.get_json()["links"]
    assert link["headers"] == {}
    address = link["url"].removeprefix("https://store.example")
    assert client.put(address, data=b"abc").status_code == 200
    manifest = {
        "version": 1,
        "job": job.id,
        "attempt": 1,
        "inputs": [],
        "logs": {"stdout": 0, "stderr": 0},
        "results": [
            {"id": "table", "name": "results/t.ecsv", "size": 3, "media_type": "text/plain", "sha256": "00"}
        ],
        "error": None,
    }
    for _ in range(2):
        assert client.post("/agent/v1/manifest", json=manifest, headers=headers).status_code == 204
    other = client.post("/agent/v1/manifest", json={**manifest, "logs": None}, headers=headers)
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("links", {"objects": [{"method": "PUT", "name": "../../x"}]}, 400),
        ("links", {"objects": [{"method": "DELETE", "name": "results/x"}]}, 400),
        ("links", {"objects": [{"method": "PUT", "name": "results/x", "size": -1}]}, 400),
        ("links", {"objects": [{"method": "PUT", "name": "results/x", "size": 2**60}]}, 413),
        ("links", {"objects": "x"}, 400),
        ("links", {}, 400),
        ("links", {"objects": [{"method": "GET", "name": "parameters/nosuch"}]}, 400),
        ("progress", {"done": "4", "of": 10}, 400),
        ("progress", {"done": 11, "of": 10}, 400),
        ("progress", [], 400),
        ("manifest", [], 400),
        ("manifest", {"job": "x"}, 400),
    ],
)
def test_an_agent_is_not_trusted(
    client: Client, attempt: dict[str, Any], path: str, body: Any, status: int
) -> None:
    headers = {**attempt["headers"], "Content-Type": "application/json"}
    assert client.post(f"/agent/v1/{path}", data=json.dumps(body), headers=headers).status_code == status


@pytest.mark.parametrize(
    ("path", "body"), [("links", {"objects": []}), ("progress", {"done": 1, "of": 2}), ("manifest", {})]
)
@pytest.mark.parametrize(
    "token", ["", "Bearer x", "Basic eDp5", "Bearer " + "0" * 26 + ".1." + "0" * 64, "Bearer é.1.x"]
)
def test_without_its_token_an_agent_is_nobody(
    client: Client, attempt: dict[str, Any], path: str, body: Any, token: str
) -> None:
    response = client.post(f"/agent/v1/{path}", json=body, headers={"Authorization": token})
    assert (response.status_code, response.headers["UWS-Answer"]) == (401, "own")
    form = client.post(f"/agent/v1/{path}", data={"a": "b"}, headers=attempt["headers"])
    assert form.status_code == 415


@covers("3:bad-path", "3:agent-outputs")
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("name", "results/../../x"),
        ("name", "results//x"),
        ("name", "results/\ud800"),
        ("name", "results/a\x85b"),
        ("name", "results/" + "a" * 300),
        ("name", "results/" + "a/" * 80 + "a"),
        ("name", "manifest.json"),
        ("name", None),
        ("size", float("inf")),
        ("size", float("nan")),
        ("size", 2**70),
        ("size", -1),
        ("size", True),
        ("size", "3"),
        ("id", "../../x"),
        ("id", ""),
        ("id", "a\r\nX: y"),
        ("id", ".."),
        ("media_type", "text/html\r\nX-Evil: 1"),
        ("media_type", "html"),
        ("media_type", "text/\u20ac"),
        ("media_type", "text/plain, text/html"),
        ("sha256", '"\r\nX: y'),
        (None, None),
    ],
)
def test_a_manifest_is_not_trusted(
    client: Client, world: World, attempt: dict[str, Any], member: str | None, value: Any
) -> None:
    job = attempt["job"]
    headers = {**attempt["headers"], "Content-Type": "application/json"}
    world.objects.put(f"{job.attempt_prefix}/results/t", b"abc")
    entry = {"id": "t", "name": "results/t", "size": 3, "media_type": "text/plain", "sha256": "0" * 64}
    results: list[Any] = [{**entry, member: value} if member else "no object"]
    manifest = {"version": 1, "job": job.id, "attempt": 1, "logs": None, "results": results}
    refused = client.post("/agent/v1/manifest", data=json.dumps(manifest), headers=headers)
    assert refused.status_code == 400, refused.text
    for logs in ({"stdout": float("inf"), "stderr": 0}, {"stdout": 0, "stderr": -1}, {"stdout": 0}, [1]):
        manifest |= {"results": [entry], "logs": logs}
        refused = client.post("/agent/v1/manifest", data=json.dumps(manifest), headers=headers)
        assert refused.status_code == 400, refused.text
    assert [one.key for one in world.objects.list(f"{job.attempt_prefix}/manifest.json")] == []
    manifest |= {"logs": None, "results": [{**entry, "id": f"t{n}"} for n in range(1001)]}
    too_many = client.post("/agent/v1/manifest", data=json.dumps(manifest), headers=headers)
    assert too_many.status_code == 413
    manifest |= {"results": [entry]}
    assert client.post("/agent/v1/manifest", data=json.dumps(manifest), headers=headers).status_code == 204


@covers("3:agent-outputs")
def test_a_manifest_of_any_depth_is_taken_or_refused(client: Client, attempt: dict[str, Any]) -> None:
    job = attempt["job"]
    headers = {**attempt["headers"], "Content-Type": "application/json"}
    manifest = {"version": 1, "job": job.id, "attempt": 1, "logs": None, "results": [], "more": 0}
    before, after = json.dumps(manifest)[:-2], "}"
    said = 0
    for depth in range(sys.getrecursionlimit(), 0, -1):
        text = before + '{"a":' * depth + "0" + "}" * depth + after
        said = client.post("/agent/v1/manifest", data=text, headers=headers).status_code
        if said != 400:
            break
    assert said == 204
