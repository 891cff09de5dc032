"""Parameters at the door: every form a body comes in, and every way in which one can be bad."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import tracemalloc
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web.world import BASE, UWS, Client, World, local
from uws_server.domain.errors import Refused
from uws_server.service.jobs import RequestLimits
from uws_server.storage.base import Stored
from uws_server.web.incoming.said import Said
from uws_server.web.incoming.words import read_filters, read_wait
from uws_server.web.parts import Bounds

covers = pytest.mark.covers
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
LINE = "\r\n"


def multipart(*parts: tuple[str, str | bytes], boundary: str = "b") -> bytes:
    """A body of parts, each with the header lines as given."""
    body = b""
    for header, content in parts:
        raw = content.encode() if isinstance(content, str) else content
        body += f"--{boundary}{LINE}{header}{LINE}{LINE}".encode() + raw + LINE.encode()
    return body + f"--{boundary}--{LINE}".encode()


def field(name: str, filename: str | None = None, media_type: str = "") -> str:
    header = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        header += f'; filename="{filename}"'
    return header + (f"{LINE}Content-Type: {media_type}" if media_type else "")


def send(
    client: Client, body: bytes, content_type: str = "multipart/form-data; boundary=b", **more: Any
) -> Any:
    return client.post("/stack/async", data=body, content_type=content_type, **more)


def values(client: Client, path: str) -> dict[str, str]:
    return {entry["id"]: entry.get("value", entry.get("name")) for entry in client.json(f"{path}/parameters")}


def refused(client: Client, response: Any, *statuses: int) -> None:
    """One sentence, and the store as it was."""
    assert response.status_code in statuses, response.text
    assert client.json("/stack/async")["jobs"] == []


# -- what is understood --------------------------------------------------------------------------------


@covers("UWS-55", "DALI-03")
@pytest.mark.parametrize("content_type", [FORM, f"{FORM}; charset=UTF-8", "multipart/form-data"])
def test_both_kinds_of_forms(client: Client, content_type: str) -> None:
    path = client.create(data={"scale": "2", "note": "α & β=γ+δ"}, content_type=content_type)
    assert values(client, path) == {"scale": "2", "note": "α & β=γ+δ"}


@covers("UWS-54")
def test_query_string_and_body_together(client: Client) -> None:
    path = client.create(query_string="scale=3&PHASE=RUN", data={"note": "n"})
    assert values(client, path) == {"scale": "3", "note": "n"}
    assert client.get(f"{path}/phase").data == b"QUEUED"


@covers("3:json-bodies")
def test_a_json_body(client: Client) -> None:
    body = {
        "parameters": {"scale": 2.5, "tile": ["a", "b"], "settings": {"deep": [1, None]}, "note": "x"},
        "run": True,
        "runId": "r",
        "executionDuration": 50,
        "destruction": "2026-12-01",
    }
    path = client.create(data=json.dumps(body), content_type="application/json")
    entries = client.json(f"{path}/parameters")
    assert [(entry["id"], entry["value"]) for entry in entries] == [
        ("scale", "2.5"),
        ("tile", "a"),
        ("tile", "b"),
        ("settings", '{"deep": [1, null]}'),
        ("note", "x"),
    ]
    job = client.json(path)
    assert (job["phase"], job["runId"], job["executionDuration"]) == ("QUEUED", "r", 50)


@covers("UWS-56", "UWS-60", "DALI-03", "3:inline-upload")
def test_inline_content_by_param(client: Client) -> None:
    content = bytes(range(256)) * 3000
    body = multipart((field("mask"), "param:bytes"), (field("bytes", "m.fits", "application/fits"), content))
    path = local(send(client, body))
    (element,) = client.xml(path).iter(f"{UWS}parameter")
    assert (element.get("id"), element.get("byReference")) == ("mask", "true")
    assert element.text == f"{BASE}{path}/parameters/mask"
    response = client.get(f"{path}/parameters/mask")
    assert response.data == content
    assert response.content_type == "application/fits"
    assert response.headers["Content-Length"] == str(len(content))
    assert client.head(f"{path}/parameters/mask").data == b""


@covers("UWS-56")
@pytest.mark.parametrize("order", [0, 1])
def test_the_part_may_be_named_like_the_parameter(client: Client, order: int) -> None:
    parts: list[tuple[str, str | bytes]] = [
        (field("mask"), "param:mask"),
        (field("mask", "m.fits"), "content"),
    ]
    path = local(send(client, multipart(*(parts if order else parts[::-1]))))
    assert client.get(f"{path}/parameters/mask").data == b"content"


@covers("UWS-56")
def test_a_part_without_a_file_name_may_be_content_too(client: Client) -> None:
    path = local(send(client, multipart((field("mask"), "param:p"), (field("p"), "a,b\n"))))
    assert client.get(f"{path}/parameters/mask").data == b"a,b\n"


def test_a_file_named_like_its_parameter_is_enough(client: Client) -> None:
    path = local(send(client, multipart((field("MASK", "weights é.fits"), b"content"))))
    assert values(client, path) == {"mask": "weights é.fits"}
    assert client.get(f"{path}/parameters/mask").data == b"content"


@covers("UWS-59", "DALI-03")
def test_the_way_topcat_sends(client: Client) -> None:
    boundary = "--MULTIPART==b'o u,n/d"
    body = multipart(
        (field("UPLOAD"), "mask,param:tbl"), (field("tbl", "tbl"), b"<VOTABLE/>"), boundary=boundary
    )
    response = client.post(
        "/stack/async",
        input_stream=io.BytesIO(body),
        content_type=f'multipart/form-data; boundary="{boundary}"',
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},  # as servers hand over a chunked body
    )
    assert response.status_code == 303
    assert client.get(f"{local(response)}/parameters/mask").data == b"<VOTABLE/>"


@covers("UWS-56")
def test_upload_by_dali(client: Client) -> None:
    path = client.create(data={"UPLOAD": "mask,https://data.example/m.fits"})
    assert values(client, path) == {"mask": "https://data.example/m.fits"}
    for bad in ("mask", "1x,https://x.example/", "mask,", ";", "PHASE,https://x.example/"):
        assert client.post("/stack/async", data={"UPLOAD": bad}).status_code == 400
    twice = {"UPLOAD": ["mask,https://x.example/1", "mask,https://x.example/2"]}
    assert client.post("/stack/async", data=twice).status_code == 400


@covers("UWS-58")
def test_no_url_is_fetched(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the server went out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    path = client.create(data={"mask": "http://169.254.169.254/latest/meta-data", "PHASE": "RUN"})
    assert client.get(f"{path}/parameters/mask").text == "http://169.254.169.254/latest/meta-data"


def test_request_of_tap_clients_is_ignored(client: Client) -> None:
    fields = {"REQUEST": "doQuery", "LANG": "ADQL", "QUERY": "SELECT 1"}
    assert values(client, client.create(data=fields)) == {"lang": "ADQL", "query": "SELECT 1"}


def test_memory_stays_bounded_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    size = 48 * 1024**2

    def sink(key: str, content: Any, limit: int | None = None) -> Stored:
        """Counts what is stored, keeping none of it."""
        return Stored(key, sum(len(chunk) for chunk in content), 0, "e")

    monkeypatch.setattr(world.objects, "put", sink)
    client = world.client()
    head = f"--b{LINE}{field('mask', 'm')}{LINE}{LINE}".encode()
    tail = f"{LINE}--b--{LINE}".encode()

    class Body(io.RawIOBase):
        sent = -1

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.sent += 1
            chunk = head if self.sent == 0 else tail if self.sent > size // 65536 else b"\r\n" * 32768
            if self.sent > size // 65536 + 1:
                return 0
            count = min(len(buffer), len(chunk))
            buffer[:count] = chunk[:count]
            assert count == len(chunk)
            return count

    tracemalloc.start()
    try:
        response = client.post(
            "/stack/async",
            environ_overrides={
                "CONTENT_TYPE": "multipart/form-data; boundary=b",
                "CONTENT_LENGTH": str(len(head) + size + len(tail)),
                "wsgi.input": io.BufferedReader(Body(), 1024**2),
            },
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 303, response.text
    assert client.json(f"{local(response)}/parameters")[0]["size"] == size
    assert peak < 8 * 1024**2


@covers("3:bad-json-bomb", "3:bad-plain-sentence")
@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (FORM, b"note=" + b"%41" * 1_200_000, 413),
        (FORM, b"note=" + b"%F0%9F%98%80" * 300_000, 400),
        (FORM, b"note=" + b"%80" * 1_000_000, 400),
        (JSON, b'{"parameters": {"note": [' + b"{}," * 2_000_000 + b"0]}}", 413),
        (JSON, b'{"parameters": {"note": [' + b"0," * 3_000_000 + b"0]}}", 413),
        (JSON, b'{"parameters": {' + b",".join(b'"%d":1' % n for n in range(600_000)) + b"}}", 413),
    ],
)
def test_what_grows_when_read_is_refused_in_little_memory(
    client: Client, content_type: str, body: bytes, status: int
) -> None:
    tracemalloc.start()
    try:
        response = send(client, body, content_type)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == status, response.text
    assert peak < 5 * len(body)


def test_long_escaped_values_come_through(client: Client) -> None:
    text = "".join(chr(0x100 + n % 0x1000) for n in range(90_000)) + "+%&= é"
    path = local(send(client, urlencode({"scale": "1", "query": text}).encode(), FORM))
    assert client.get(f"{path}/parameters/query").get_data(as_text=True) == text


def test_many_parts_cost_no_more_memory_than_one(client: Client) -> None:
    count, size = 400, 200_000  # each of them small, and together more than values may be

    def piece(number: int) -> bytes:
        if number == count:
            return f"--b--{LINE}".encode()
        return f"--b{LINE}{field(f'p{number:03d}')}{LINE}{LINE}{'x' * size}{LINE}".encode()

    class Body(io.RawIOBase):
        number = -1

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.number += 1
            sent = piece(self.number) if self.number <= count else b""
            buffer[: len(sent)] = sent
            return len(sent)

    tracemalloc.start()
    try:
        response = client.post(
            "/stack/async",
            environ_overrides={
                "CONTENT_TYPE": "multipart/form-data; boundary=b",
                "CONTENT_LENGTH": str(count * len(piece(0)) + len(piece(count))),
                "wsgi.input": io.BufferedReader(Body(), 1024**2),
            },
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 413
    assert "send a file" in response.text
    assert peak < 8 * 1024**2


# -- what is refused -----------------------------------------------------------------------------------


@covers("3:bad-many-parameters", "UWS-09")
@pytest.mark.parametrize("kind", ["form", "query", "multipart"])
def test_ten_thousand_parameters(client: Client, kind: str) -> None:
    pairs = "&".join(f"p{n}=x" for n in range(10_000)).encode()
    if kind == "form":
        response = send(client, pairs, FORM)
    elif kind == "query":
        response = client.post("/stack/async", query_string=pairs.decode())
    else:
        response = send(client, multipart(*((field(f"p{n}"), "x") for n in range(10_000))))
    refused(client, response, 413)


@covers("3:bad-long-name", "UWS-09")
@pytest.mark.parametrize("kind", ["form", "json", "multipart", "file"])
def test_a_name_of_a_megabyte(client: Client, kind: str) -> None:
    name = "n" * 1024**2
    if kind == "form":
        response = send(client, f"{name}=1".encode(), FORM)
    elif kind == "json":
        response = client.post("/stack/async", json={"parameters": {name: 1}})
    else:
        response = send(client, multipart((field(name, "f" if kind == "file" else None), "1")))
    refused(client, response, 400, 413)
    assert len(response.text) < 300


@covers("3:bad-control-characters")
@pytest.mark.parametrize("name", ["a\x00", "\x01", "a\x7fb", "a\x85", "a\nb", "a\ufffe", " \t"])
@pytest.mark.parametrize("kind", ["form", "json"])
def test_control_characters_in_names(client: Client, name: str, kind: str) -> None:
    if kind == "form":
        response = client.post("/stack/async", data={name: "1"})
    else:
        response = client.post("/stack/async", json={"parameters": {name: "1"}})
    refused(client, response, 400)


@covers("3:bad-control-characters")
def test_control_characters_in_the_names_of_lists(client: Client) -> None:
    path = client.create() + "/parameters"
    response = client.post(path, json={"band\x01": ["R"]})
    assert response.status_code == 400
    assert "control characters" in response.text


@covers("3:bad-control-characters", "UWS-63")
def test_a_nul_in_a_value_is_no_fault_of_ours(client: Client) -> None:
    response = client.post("/stack/async", data={"note": "a\x00b"})
    refused(client, response, 400)  # the template takes text without control characters


@covers("3:bad-utf8")
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"note=%ff", FORM),
        (b"note=\xff", FORM),
        (b"n%fcte=1", FORM),
        (b'{"parameters": {"note": "\xff"}}', "application/json"),
        (b'{"parameters": {"note": "\\ud800"}}', "application/json"),
        (multipart((field("note"), b"\xff\xfe")), "multipart/form-data; boundary=b"),
        (multipart((field("note"), b"x")).replace(b"note", b"n\xffte"), "multipart/form-data; boundary=b"),
    ],
)
def test_invalid_utf8(client: Client, body: bytes, content_type: str) -> None:
    refused(client, send(client, body, content_type), 400)


@covers("3:bad-duplicate-part")
def test_duplicate_parts(client: Client) -> None:
    body = multipart((field("mask", "a"), "1"), (field("mask", "b"), "2"))
    refused(client, send(client, body), 400)
    body = multipart((field("mask"), "param:p"), (field("p"), "1"), (field("p"), "2"))
    refused(client, send(client, body), 400)
    body = multipart((field("mask"), "param:p"), (field("p", "f"), "1"), (field("mask"), "param:p"))
    refused(client, send(client, body), 400)


@covers("UWS-56")
@pytest.mark.parametrize("value", ["param:", "param:nosuch", "param:../x"])
def test_a_reference_to_no_part(client: Client, value: str) -> None:
    refused(client, client.post("/stack/async", data={"mask": value}), 400)
    refused(client, send(client, multipart((field("mask"), value))), 400)
    refused(client, client.post("/stack/async", json={"parameters": {"mask": value}}), 400)


@covers("3:bad-too-large", "UWS-09")
@pytest.mark.parametrize("kind", ["form", "json", "field", "file", "put", "values", "unannounced"])
def test_too_large(kind: str) -> None:
    world = World(
        limits=RequestLimits(upload_bytes=50_000, value_bytes=2000),
        bounds=Bounds(body_bytes=9000, upload_bytes=60_000),
    )
    client = world.client()
    if kind == "form":
        response = send(client, b"note=" + b"x" * 10_000, FORM)
    elif kind == "json":
        response = client.post("/stack/async", json={"parameters": {"note": "x" * 10_000}})
    elif kind == "field":
        response = send(client, multipart((field("note"), "x" * 3000)))
    elif kind == "file":
        response = send(client, multipart((field("mask", "f"), "x" * 55_000)))
    elif kind == "values":
        response = send(client, b"note=" + b"x" * 3000, FORM)
    elif kind == "unannounced":
        response = client.post(
            "/stack/async",
            input_stream=io.BytesIO(b"note=" + b"x" * 10_000),
            content_type=FORM,
            environ_overrides={"wsgi.input_terminated": True},
        )
    else:
        path = client.create()
        assert client.put(f"{path}/parameters/mask", data=b"x" * 55_000).status_code == 413
        assert client.put(f"{path}/parameters/note", data=b"x" * 3000).status_code == 413
        assert client.json(f"{path}/parameters") == []
        return
    refused(client, response, 413)
    assert list(world.objects.list("")) == []


@covers("3:bad-type", "UWS-09", "3:bad-xml-bomb", "3:bad-xml-entity")
@pytest.mark.parametrize(
    "content_type",
    ["text/xml", "application/xml", "text/plain", "application/octet-stream", "image/png", "x", "/", None],
)
def test_other_types_of_body(client: Client, content_type: str | None) -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd"><!ENTITY y "&x;&x;">]><a>&y;</a>'
    response = client.post("/stack/async", data=bomb, content_type=content_type)
    refused(client, response, 415)
    assert "root:" not in response.text


@covers("3:bad-json-bomb")
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"parameters":' * 20_000,
        b'{"parameters": {"scale": ' + b"9" * 100_000 + b"}}",
        b'{"parameters": {"scale": NaN}}',
        b'{"parameters": {"scale": 1e999}}',
        b'{"parameters": {"a": 1, "a": 2}}',
        b"[]",
        b'"x"',
        b"",
        b"{",
        b"\xef\xbb\xbf{}",
        b'{"parameters": []}',
        b'{"parameters": {}, "run": "yes"}',
        b'{"parameters": {}, "ruN": true}',
        b'{"runId": 5}',
        b'{"executionDuration": -1}',
        b'{"executionDuration": 1.5}',
        b'{"destruction": "x"}',
        b'{"runId": "a\\u0000b"}',
    ],
)
def test_bad_json(client: Client, body: bytes) -> None:
    refused(client, send(client, body, "application/json"), 400)


@covers("3:bad-json-bomb", "3:bad-parameter")
@pytest.mark.parametrize(
    "body",
    [
        '{"parameters": {"scale": 1}, "run": true, "again": 1, "again": 2}',
        '{"parameters": {"again": 1, "again": 1}}',
        '{"parameters": {"settings": {"deep": [{"x": 0}, {"again": {}, "x": 1, "again": []}]}}}',
    ],
)
@pytest.mark.parametrize("target", ["/stack/async", "parameters"])
def test_a_json_name_that_stands_twice_is_named(client: Client, body: str, target: str) -> None:
    path = client.create() + "/parameters"
    response = client.post(
        path if target == "parameters" else target, data=body, content_type="application/json"
    )
    assert response.status_code == 400
    assert response.text == "the name 'again' stands twice in one JSON object"
    assert client.json(path) == []
    assert len(client.json("/stack/async")["jobs"]) == 1


@covers("3:bad-parameter")
@pytest.mark.parametrize(
    ("service", "fields"),
    [
        ("notebook", {"parameters": '{"again": 1, "again": 2}'}),
        ("notebook", {"parameters": '{"x": [{"again": 1, "again": 2}]}'}),
        ("notebook", {"p.x": '{"again": 1, "again": 2}'}),
        ("stack", {"settings": '[{"again": 1, "again": 2}]'}),
    ],
)
def test_a_json_value_with_a_name_twice_is_refused(
    client: Client, service: str, fields: dict[str, str]
) -> None:
    parts: list[tuple[str, str | bytes]] = [(field(name), value) for name, value in fields.items()]
    if service == "notebook":
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "x = {}"}
        parts.append((field("notebook", "n"), json.dumps({"nbformat": 4, "cells": [cell]})))
    response = client.post(
        f"/{service}/async", data=multipart(*parts), content_type="multipart/form-data; boundary=b"
    )
    assert response.status_code == 400
    assert response.text == "the name 'again' stands twice in one JSON object"


@covers("3:bad-duplicate-part")
@pytest.mark.parametrize(
    "body",
    [
        b"--b",
        b"--b\r\n",
        b"--b\r\n\r\n\r\n--b--",
        b"--b--",
        b"garbage",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name=""\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nno end',
        b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nx\r\n--b',
        b"--b\r\nX: y\r\n\r\nx\r\n--b--\r\n",
        multipart((field("mask", "a\x01b"), "x")),
        multipart((field("mask", "n" * 2000), "x")),
    ],
)
def test_malformed_multipart(client: Client, body: bytes) -> None:
    response = send(client, body)
    if body == b"--b--":
        assert response.status_code == 303  # a form without fields
    else:
        refused(client, response, 400)


@pytest.mark.parametrize("options", ["", "; boundary=", "; boundary=" + "x" * 300, "; boundary=ü"])
def test_multipart_without_a_boundary(client: Client, options: str) -> None:
    refused(client, send(client, multipart((field("note"), "x")), f"multipart/form-data{options}"), 400)


@covers("3:bad-path")
@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".", "a/../../b", "%2e%2e", "C:\\x"]
)
def test_path_tricks_in_names(client: Client, world: World, name: str) -> None:
    refused(client, client.post("/stack/async", data={name: "1"}), 400)
    refused(client, send(client, multipart((field(name, "x"), "1"))), 400)
    path = local(send(client, multipart((field("mask", name), "content"))))
    (stored,) = world.objects.list("")
    assert stored.key.startswith(f"jobs/{path.rpartition('/')[2]}/parameters/")
    assert ".." not in stored.key
    response = client.get(f"{path}/parameters/mask")
    assert response.data == b"content"
    assert "/" not in response.headers["Content-Disposition"].replace("UTF-8''", "").partition("filename=")[2]


def test_a_body_that_is_cut_off(client: Client) -> None:
    response = client.post(
        "/stack/async",
        input_stream=io.BytesIO(b"note=1"),
        content_type=FORM,
        environ_overrides={"CONTENT_LENGTH": "1000"},
    )
    refused(client, response, 400)


def test_refused_content_leaves_nothing_behind(client: Client, world: World) -> None:
    body = multipart((field("scale"), "wide"), (field("mask", "m"), "content"))
    refused(client, send(client, body), 400)
    assert list(world.objects.list("")) == []


# -- whatever comes ------------------------------------------------------------------------------------

_piece = st.sampled_from(
    [
        *(
            b"--b",
            b"--b--",
            b"\r\n",
            b"\n",
            b"\r",
            b"\r\n\r\n",
            b'Content-Disposition: form-data; name="note"',
        ),
        *(
            b'; filename="x"',
            b"Content-Type: text/plain",
            b"param:note",
            b"\x00",
            b"\xff",
            b"note=1",
            b"&",
            b"=",
            b"%",
        ),
        *(b"%zz", b'{"parameters":', b"{", b"}", b"[", b'"', b":", b"x" * 300),
    ]
)
_bodies = st.lists(_piece | st.binary(max_size=12), max_size=12).map(b"".join)


@covers("3:bad-plain-sentence", "UWS-09", "UWS-07")
@given(
    body=_bodies,
    content_type=st.sampled_from(
        [FORM, "multipart/form-data; boundary=b", "application/json", "text/xml", ""]
    ),
    query=st.binary(max_size=30),
    target=st.sampled_from(
        ["/stack/async", "/phase", "/parameters", "/destruction", "/executionduration", ""]
    ),
)
def test_no_body_breaks_the_server(body: bytes, content_type: str, query: bytes, target: str) -> None:
    client = CLIENT
    path = target if target == "/stack/async" else PATH + target
    response = client.post(
        path,
        data=body,
        content_type=content_type,
        environ_overrides={"QUERY_STRING": query.decode("latin-1")},
    )
    assert response.status_code in {303, 400, 403, 413, 415}


WORLD = World()
CLIENT = WORLD.client()
PATH = CLIENT.create()


@given(text=st.text(max_size=40), word=st.sampled_from(["WAIT", "LAST", "AFTER", "PHASE", "CURSOR", "HOP"]))
@covers("UWS-39", "UWS-49", "3:bad-control")
def test_no_query_breaks_the_server(text: str, word: str) -> None:
    text = text.replace("\ud800", "")
    for path in ("/stack/async", f"{PATH}/phase"):
        assert CLIENT.get(path, query_string={word: text}).status_code in {200, 400}


@given(text=st.text(alphabet=st.characters(), max_size=60))
def test_what_is_read_is_what_was_sent(text: str) -> None:
    response = CLIENT.post("/stack/async", json={"parameters": {"query": text}})
    if response.status_code == 303:
        assert CLIENT.get(f"{local(response)}/parameters/query").text == text
        document = CLIENT.xml(local(response))
        (element,) = document.iter(f"{UWS}parameter")
        if element.get("byReference") != "true":
            assert (element.text or "") == text
    else:
        assert response.status_code == 400


@given(text=st.binary(max_size=40))
def test_the_parsers_refuse_and_never_raise_otherwise(text: bytes) -> None:
    said = Said([("WAIT", text.decode("latin-1")), ("LAST", "1")])
    for read in (lambda: read_wait(said, 5), lambda: read_filters(said)):
        with contextlib.suppress(Refused):  # and nothing else
            read()


def test_temporary_files_are_gone_after_the_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = tempfile.SpooledTemporaryFile

    class Watched(original):  # type: ignore[valid-type, misc]
        def __init__(self, *given_: Any, **named: Any) -> None:
            super().__init__(*given_, **named)
            made.append(self)

    monkeypatch.setattr("uws_server.web.incoming.multipart.SpooledTemporaryFile", Watched)
    send(client, multipart((field("mask", "m"), b"x" * 10**6), (field("note"), "n")))
    send(client, multipart((field("mask", "m"), b"x" * 10**6), (field("nosuch"), "n")))
    assert len(made) == 2  # one a body, however many parts
    assert all(file.closed for file in made)
