"""A server in one process, on the doubles of store and object store, and a client that trusts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, cast

import xmlschema
from flask import Flask
from flask.testing import FlaskClient
from lxml import etree
from werkzeug.test import TestResponse

from job_templates.catalog import Catalog, load
from tests.jobs import bare_spec
from uws_server.auth.base import Header
from uws_server.domain import events
from uws_server.domain.caller import Caller
from uws_server.domain.job import ErrorSummary, Job, Parameter, Result, Upload
from uws_server.domain.phase import Phase
from uws_server.factory import new_job_id
from uws_server.service.changes import Changes
from uws_server.service.door import Door
from uws_server.service.jobs import Jobs, RequestLimits
from uws_server.service.results import Results
from uws_server.service.waiting import Waiting
from uws_server.site_offers import SiteOffer
from uws_server.storage.links import Links
from uws_server.storage.memory import MemoryStore as MemoryObjects
from uws_server.store.base import Capacity
from uws_server.store.memory import MemoryStore
from uws_server.web.app import create_app
from uws_server.web.parts import Bounds, Parts

BASE = "https://archive.example/uws"
SECRET = b"s" * 32
SCHEMAS = Path(__file__).parents[1] / "schema"
SHARED = Path(__file__).parents[3] / "shared" / "xsd"
UWS = "{http://www.ivoa.net/xml/UWS/v1.0}"
XLINK = "{http://www.w3.org/1999/xlink}"
XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
START = 1_793_696_398_120  # 2026-11-03T08:59:58.120Z
KINDS = frozenset({"notebook", "command"})
ROOM = Capacity(jobs=100, cpu_milli=8000, memory_bytes=16 * 1024**3)
DIGEST = "0f1e2d3c" * 8


class Wakes:
    """A queue that remembers what it was asked."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        self.stopped: list[str] = []

    def wake(self, site: str) -> None:
        self.woken.append(site)

    def stop(self, site: str) -> None:
        self.stopped.append(site)


@cache
def catalog() -> Catalog:
    return load([Path(__file__).with_name("templates")])


class ByHeader:
    """Whoever the header X-User names; the way callers are told apart in these tests."""

    def authenticate(self, header: Header) -> Caller:
        return Caller(header("X-User") or "")


@dataclass
class World:
    """All parts of one server."""

    limits: RequestLimits = field(default_factory=RequestLimits)
    bounds: Bounds = field(default_factory=lambda: Bounds(wait_seconds=5))
    base_url: str = BASE
    redirect_bytes: int = 0
    draining: bool = False
    sites: Mapping[str, SiteOffer] = field(default_factory=lambda: {"local": SiteOffer("local", KINDS, ROOM)})

    def __post_init__(self) -> None:
        self._apps: dict[tuple[Any, ...], Flask] = {}
        ticks = count(START)
        self.clock: Callable[[], int] = lambda: next(ticks)
        self.store = MemoryStore(self.clock)
        self.links = Links(SECRET, "https://store.example")
        self.objects = MemoryObjects(self.links)
        self.queue = Wakes()
        self.changes = Changes(self.store, self.queue, self.clock)
        self.waiting = Waiting(self.store, 100)
        self.jobs = Jobs(
            store=self.store,
            changes=self.changes,
            waiting=self.waiting,
            objects=self.objects,
            catalog=catalog(),
            sites=self.sites,
            clock=self.clock,
            new_id=new_job_id,
            limits=self.limits,
        )

    def app(self, **changes: Any) -> Flask:
        parts = Parts(
            jobs=self.jobs,
            results=Results(self.objects),
            door=Door(self.store, self.changes, self.objects, SECRET, 1024**3, spec=bare_spec),
            catalog=catalog(),
            store=self.store,
            objects=self.objects,
            links=self.links,
            base_url=self.base_url,
            bounds=self.bounds,
            authenticator=ByHeader(),
            draining=lambda: self.draining,
            redirect_bytes=self.redirect_bytes,
        )
        return create_app(replace(parts, **changes))

    def client(self, **changes: Any) -> Client:
        key = (*sorted(changes), self.redirect_bytes)
        if changes or key not in self._apps:
            self._apps[key] = self.app(**changes)
        return Client(self._apps[key].test_client())

    # -- jobs in whatever state ----------------------------------------------------------------------

    def apply(self, job_id: str, *happened: events.Event) -> Job:
        for event in happened:
            self.changes.apply(job_id, event)
        return self.jobs.get(Caller(), "stack", job_id)

    def put(self, job: Job) -> Job:
        """Store a job as it is."""
        self.store.schedule_clearance(job.id, self.store.now() + 60_000)
        return self.store.create(job)

    def in_phase(self, phase: Phase, **changes: Any) -> Job:
        """A stored job in any phase, with everything that such a job has."""
        return self.put(replace(sample(phase), id=new_job_id(), **changes))


def sample(phase: Phase) -> Job:
    """A job in any phase, always the same one: what the golden files show."""
    started = phase not in (Phase.PENDING, Phase.QUEUED, Phase.HELD)
    job = Job(
        id="1" * 26,
        service="stack",
        owner="",
        created=START,
        phase=phase,
        run_id="survey-night-12",
        parameters=(
            Parameter("scale", "1.8"),
            Parameter("tile", "s3://survey-bucket/tiles/t1.fits"),
            Parameter("tile", "s3://survey-bucket/tiles/t2.fits"),
            Parameter("note", "a < b & c"),
            Parameter("mask", "mask.fits", Upload(2880, DIGEST, "application/fits")),
        ),
        duration=7200,
        destruction=START + 14 * 86_400_000,
        attempt=0 if phase is Phase.PENDING else 1,
        site="" if phase is Phase.PENDING else "local",
        started=START + 6880 if started else None,
        ended=START + 251_880 if phase.final else None,
        reason={
            Phase.QUEUED: "the site is full",
            Phase.HELD: "held by an operator",
            Phase.SUSPENDED: "the site is paused",
            Phase.UNKNOWN: "the site does not answer",
            Phase.ABORTED: "ran longer than its execution duration of 7200 s",
            Phase.ARCHIVED: "was COMPLETED",
        }.get(phase, ""),
        progress=(3, 10) if phase is Phase.EXECUTING else None,
    )
    results = (
        Result("table", "results/t.ecsv", 3000, "text/plain", DIGEST),
        Result("preview", "results/p.png", 51, "image/png", DIGEST),
    )
    if phase is Phase.COMPLETED:
        job = replace(job, results=results, logs=(120, 0))
    if phase is Phase.ERROR:
        error = ErrorSummary(
            "Cell 4 of the notebook raised KeyError: 'flux'", transient=False, detail="Traceback"
        )
        job = replace(job, error=error, logs=(120, 33))
    if phase is Phase.ABORTED:
        job = replace(job, results=results[:1], logs=(120, 0))
    return job


# -- a client ------------------------------------------------------------------------------------------


class Offline(etree.Resolver):
    """Schemas that import others by address get the copies beside them; nothing is fetched."""

    def resolve(self, system_url: str, public_id: str, context: Any) -> Any:  # type: ignore[override]
        name = system_url.rpartition("/")[2].lower()
        for part, path in (("xlink", SHARED / "xlink-stub.xsd"), ("stc", SHARED / "stc-stub.xsd")):
            if part in name and not system_url.startswith(str(SCHEMAS)):
                return self.resolve_filename(str(path), context)  # type: ignore[attr-defined]
        return None


@cache
def schemas() -> Mapping[str, list[etree.XMLSchema]]:
    """Root element → the schemas that hold for it: always our own, and the standard's where it is present."""
    names = {
        "{http://www.ivoa.net/xml/VOSIAvailability/v1.0}availability": (
            "availability",
            "VOSIAvailability-v1.0",
        ),
        "{http://www.ivoa.net/xml/VOSICapabilities/v1.0}capabilities": ("capabilities", ""),
        **{f"{UWS}{name}": ("uws", "UWS-v1.1") for name in ("job", "jobs", "results", "parameters")},
    }
    return {
        root: [
            schema(path) for path in (SCHEMAS / f"{own}.xsd", SHARED / f"{standard}.xsd") if path.is_file()
        ]
        for root, (own, standard) in names.items()
    }


@cache
def schema(path: Path) -> etree.XMLSchema:
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(Offline())
    return etree.XMLSchema(etree.parse(str(path), parser))


@cache
def standard_capabilities() -> xmlschema.XMLSchema | None:
    """The standard's schema for capabilities, which spans four files."""
    if not SHARED.is_dir():
        return None
    return xmlschema.XMLSchema(
        [SHARED / "VOSICapabilities-v1.0.xsd", SHARED / "VODataService-v1.2.xsd"],
        locations=[
            ("http://www.ivoa.net/xml/VOResource/v1.0", str(SHARED / "VOResource-v1.2.xsd")),
            ("http://www.ivoa.net/xml/VODataService/v1.1", str(SHARED / "VODataService-v1.2.xsd")),
            ("http://www.ivoa.net/xml/STC/stc-v1.30.xsd", str(SHARED / "stc-stub.xsd")),
            ("http://www.w3.org/1999/xlink", str(SHARED / "xlink-stub.xsd")),
        ],
        allow="local",
    )


def validate(document: bytes) -> etree._Element:
    """Hold a document against its schemas; its root."""
    root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True))
    for one in schemas()[root.tag]:
        one.assertValid(root)
    return root


class Client:
    """A client that validates every XML answer, and holds every refusal to be one plain sentence."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client

    def open(self, path: str, method: str, **options: Any) -> TestResponse:
        response = self._client.open(path, method=method, buffered=True, **options)
        check(response)
        return response

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.open(path, "GET", **options)

    def head(self, path: str, **options: Any) -> TestResponse:
        return self.open(path, "HEAD", **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.open(path, "POST", **options)

    def put(self, path: str, **options: Any) -> TestResponse:
        return self.open(path, "PUT", **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.open(path, "DELETE", **options)

    def xml(self, path: str, **options: Any) -> etree._Element:
        response = self.get(path, **options)
        assert response.status_code == 200, response.text
        return validate(response.data)

    def json(self, path: str, **options: Any) -> Any:
        response = self.get(path, headers={"Accept": "application/json"}, **options)
        assert response.status_code == 200, response.text
        assert response.content_type == "application/json"
        return response.get_json()

    def create(self, service: str = "stack", **options: Any) -> str:
        """A new job's path, as seen by this client."""
        response = self.post(f"/{service}/async", **options)
        assert response.status_code == 303, response.text
        return local(response)


def check(response: TestResponse) -> None:
    assert response.status_code < 500 or response.status_code in (503, 504), response.text
    if (
        response.mimetype in ("text/xml", "application/xml")
        and response.data
        and "/results/" not in response.request.path
    ):
        validate(response.data)
    if response.status_code >= 400 and response.data:
        sentence = response.text
        if response.mimetype == "application/json":
            sentence = cast("str", response.get_json()["error"])
        else:
            assert response.content_type == "text/plain; charset=utf-8"
        assert "\n" not in sentence.strip()
        assert "Traceback" not in sentence
        assert 3 < len(sentence) < 2000
    if 300 <= response.status_code < 400 and response.status_code != 304:
        assert response.status_code == 303
        assert response.headers["Location"].startswith("https://")


def local(response: TestResponse) -> str:
    """The path that a redirect leads to, on the test client."""
    return response.headers["Location"].removeprefix(BASE)


def texts(root: etree._Element, name: str) -> Iterator[str | None]:
    return (element.text for element in root.iter(f"{UWS}{name}"))
