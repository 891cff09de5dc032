"""Content that comes with a request is stored when it is wanted, and at no other time."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.web.test_parameters import field, multipart, send
from tests.web.world import Client, World, local
from uws_server.domain.caller import Caller
from uws_server.domain.errors import NotFound
from uws_server.domain.events import AbortRequested
from uws_server.domain.job import Parameter
from uws_server.service.jobs import RequestLimits
from uws_server.service.uploads import Content
from uws_server.store.base import Due, StoreUnavailable
from uws_server.web.parts import Bounds

covers = pytest.mark.covers
NOTEBOOK: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


@pytest.fixture
def puts(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The key of each object that was begun to be stored."""
    begun: list[str] = []
    put = world.objects.put

    def noted(key: str, *arguments: Any, **named: Any) -> Any:
        begun.append(key)
        return put(key, *arguments, **named)

    monkeypatch.setattr(world.objects, "put", noted)
    return begun


def stored(world: World) -> list[str]:
    return [entry.key for entry in world.objects.list("")]


class Unread(io.RawIOBase):
    """A body that nobody may look at."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise AssertionError("the body was read")


def unread(client: Client, path: str, method: str, **headers: str) -> Any:
    return client.open(
        path,
        method,
        environ_overrides={
            "wsgi.input": Unread(),
            "CONTENT_LENGTH": "1000",
            "CONTENT_TYPE": "multipart/form-data; boundary=b",
        },
        headers=headers,
    )


@covers("3:bad-plain-sentence", "3:inline-upload")
@pytest.mark.parametrize(
    ("service", "fields", "sentence"),
    [
        ("stack", {"nosuch": "1"}, "no parameter 'nosuch'"),
        ("stack", {"scale": "wide"}, "parameter scale"),
        ("stack", {"scale": "11"}, "parameter scale"),
        ("stack", {"band": "r"}, "parameter band"),
        ("stack", {"CPU": "9000"}, "parameter CPU"),
        ("stack", {"GPU": "3"}, "no site here has any"),
        ("stack", {"PHASE": "ABORT"}, "PHASE=RUN is"),
        ("stack", {"mask": "param:f", "note": "param:nosuch"}, "param:nosuch"),
        ("script", {}, "parameter script is missing"),
        ("notebook", {"mask": "param:f"}, "no parameter 'mask'"),
    ],
)
def test_a_creation_that_is_refused_stores_nothing(
    client: Client, puts: list[str], service: str, fields: dict[str, str], sentence: str
) -> None:
    name = {"stack": "mask", "script": "input", "notebook": "input"}[service]
    parts = [(field(key), value) for key, value in fields.items()]
    file = (field("f" if "mask" in fields else name, "m.fits"), b"content")
    response = client.post(
        f"/{service}/async", data=multipart(file, *parts), content_type="multipart/form-data; boundary=b"
    )
    assert response.status_code == 400
    assert sentence in response.text
    assert puts == []


def test_a_notebook_that_is_none_is_refused_before_it_is_stored(client: Client, puts: list[str]) -> None:
    body = multipart((field("notebook", "n.ipynb"), b"[]"))
    response = client.post("/notebook/async", data=body, content_type="multipart/form-data; boundary=b")
    assert (response.status_code, puts) == (400, [])
    assert "not a Jupyter notebook" in response.text


def test_content_over_the_parameters_own_limit_is_not_stored(client: Client, puts: list[str]) -> None:
    size = 64 * 1024**2 + 1
    body = multipart((field("notebook", "n.ipynb"), bytes(size)))
    response = client.post("/notebook/async", data=body, content_type="multipart/form-data; boundary=b")
    assert (response.status_code, puts) == (400, [])
    path = client.create("notebook", data={"notebook": "https://x.example/n.ipynb"})
    announced = {"CONTENT_LENGTH": str(size), "wsgi.input": Unread()}
    response = client.put(f"{path}/parameters/notebook", environ_overrides=announced)
    assert (response.status_code, puts) == (413, [])


@covers("UWS-61", "UWS-78", "UWS-05")
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_no_body_is_read_for_a_job_that_cannot_be_changed(client: Client, world: World, method: str) -> None:
    path = client.create()
    below = "/parameters/mask" if method == "PUT" else "/parameters"
    assert unread(client, f"{path[:-1]}x{below}", method).status_code == 404
    assert unread(client, f"{path}{below}", method, **{"X-User": "somebody"}).status_code == 403
    assert unread(client, f"{path.replace('stack', 'nosuch')}{below}", method).status_code == 404
    world.apply(path.rpartition("/")[2], AbortRequested())
    assert unread(client, f"{path}{below}", method).status_code == 403


@covers("VOSI-04", "UWS-09")
def test_no_body_is_read_for_a_job_that_cannot_be_made(client: Client, world: World) -> None:
    assert unread(client, "/nosuch/async", "POST").status_code == 404
    assert unread(client, "/stack/async", "POST", **{"Idempotency-Key": "a b"}).status_code == 400
    world.draining = True
    assert unread(client, "/stack/async", "POST").status_code == 503


@covers("UWS-61", "3:inline-upload")
def test_content_that_is_replaced_is_removed(client: Client, world: World) -> None:
    path = client.create()
    address = f"{path}/parameters/mask"
    for content in (b"first", b"second"):
        assert client.put(address, data=content).status_code == 303
        assert client.get(address).data == content
        assert len(stored(world)) == 1
    body = multipart((field("mask", "third"), b"third"))
    client.post(f"{path}/parameters", data=body, content_type="multipart/form-data; boundary=b")
    assert client.get(address).data == b"third"
    assert len(stored(world)) == 1
    client.put(address, data=b"https://x.example/m.fits")
    assert stored(world) == []


@covers("3:results-media-type")
@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("application/fits", "application/fits"),
        ("text/csv; charset=utf-8", "text/csv"),
        ("text/plain, text/html", "application/octet-stream"),  # of two, browsers take the second
        ("text/" + "x" * 4000, "application/octet-stream"),
        ("text/\xe9", "application/octet-stream"),
        (";", "application/octet-stream"),
    ],
)
def test_content_is_of_one_type(client: Client, said: str, kept: str) -> None:
    address = f"{local(client.post('/stack/async'))}/parameters/mask"
    assert client.put(address, data=b"<b>", headers={"Content-Type": said}).status_code == 303
    assert client.get(address).headers["Content-Type"] == kept


@covers("UWS-61", "3:bad-not-a-notebook")
def test_streamed_content_that_turns_out_to_be_wrong_is_removed(client: Client, world: World) -> None:
    body = multipart((field("notebook", "n.ipynb"), json.dumps(NOTEBOOK)))
    created = client.post("/notebook/async", data=body, content_type="multipart/form-data; boundary=b")
    before = stored(world)
    assert len(before) == 1
    address = f"{local(created)}/parameters/notebook"
    assert client.put(address, data=b"no notebook").status_code == 400
    assert stored(world) == before
    assert client.get(address).get_json(force=True) == NOTEBOOK


@covers("3:idempotency-key")
def test_a_request_that_is_repeated_leaves_no_second_copy(client: Client, world: World) -> None:
    body = multipart((field("mask", "m"), b"content"))
    headers = {"Idempotency-Key": "k"}
    first = local(send(client, body, headers=headers))
    before = stored(world)
    assert local(send(client, body, headers=headers)) == first
    assert send(client, body.replace(b"content", b"changed"), headers=headers).status_code == 409
    assert stored(world) == before


@covers("3:bad-plain-sentence")
def test_what_an_unanswered_store_leaves_is_noted_for_clearance(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows then whether there is a job: `tests/contract` and the reconciler's tests show the rest."""

    def unanswered(*_: Any) -> Any:
        raise StoreUnavailable("the reply was lost")

    monkeypatch.setattr(world.store, "create", unanswered)
    assert send(client, multipart((field("mask", "m"), b"content"))).status_code == 503
    (key,) = stored(world)
    assert world.store.due(Due.CLEARANCE, world.store.now() + 2 * 3600_000) == [key.split("/")[1]]


def test_control_forms_bring_no_files() -> None:
    world = World(
        limits=RequestLimits(upload_bytes=10**6), bounds=Bounds(body_bytes=2000, upload_bytes=10**6)
    )
    client = world.client()
    path = client.create()
    body = multipart((field("PHASE"), "RUN"), (field("f", "f"), bytes(5000)))
    kind = "multipart/form-data; boundary=b"
    assert client.post(f"{path}/phase", data=body, content_type=kind).status_code == 413
    assert client.get(f"{path}/phase").data == b"PENDING"


def test_parameters_of_a_job_deleted_meanwhile(world: World, client: Client) -> None:
    path = client.create()
    job = world.jobs.changeable(Caller(), "stack", path.rpartition("/")[2])
    client.delete(path)
    with pytest.raises(NotFound):
        world.jobs.set_parameters(job, (Parameter("mask", "m"),), {"mask": Content([b"x"], "a/b")})
    assert stored(world) == []
