"""VOSI 1.1: what a service can do, and whether it can do it now. Both are open to everybody (VOSI-02)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flask import Blueprint, Response
from lxml.etree import Element, SubElement, _Element, tostring
from werkzeug.http import http_date

from uws_server.domain.instants import to_iso
from uws_server.readiness import Readiness
from uws_server.web.addresses import Addresses
from uws_server.web.answers import published
from uws_server.web.current import XML
from uws_server.web.parts import Parts
from uws_server.web.render_xml import XSI, legal

_AVAILABILITY = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
_CAPABILITIES = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
_VODATASERVICE = "http://www.ivoa.net/xml/VODataService/v1.1"
_RESOURCE = "http://www.ivoa.net/xml/VOResource/v1.0"
_TYPE = f"{{{XSI}}}type"


_BEHIND = {"redis": "the job store", "objects": "the object store"}


def notes_of(readiness: Readiness) -> tuple[bool, tuple[str, ...]]:
    """Whether jobs can be made and run now, and in sentences why not (VOSI-04); never an exception."""
    answer = readiness.answer()
    if answer.said["web"]:
        return False, ("the server is about to stop and takes no new jobs",)
    if answer.ready:
        return True, ("job store and object store answered",)
    return False, tuple(f"{_BEHIND[name]} {words}" for name, words in answer.said.items() if words)


def vosi_blueprint(parts: Parts, addresses: Callable[[], Addresses], readiness: Readiness) -> Blueprint:
    """``/{service}/capabilities`` and ``/{service}/availability``."""
    blueprint = Blueprint("vosi", __name__)
    since = time.time_ns() // 1_000_000

    @blueprint.route("/<service>/capabilities", methods=["GET"], provide_automatic_options=False)
    def capabilities(service: str) -> Response:
        template = parts.catalog.get(service)
        body = capabilities_document(addresses().service(service), f"{template.title}, synchronously")
        response = published(body, XML)
        response.headers["Last-Modified"] = http_date(since // 1000)
        return response

    @blueprint.route("/<service>/availability", methods=["GET"], provide_automatic_options=False)
    def availability(service: str) -> Response:
        parts.catalog.get(service)
        body = availability_document(*notes_of(readiness), since)
        return Response(body, 200, content_type=XML)

    return blueprint


def availability_document(available: bool, notes: Iterable[str], since: int) -> bytes:
    """`vosi:availability`. ``since`` in milliseconds since 1970 UTC."""
    root = Element(f"{{{_AVAILABILITY}}}availability", nsmap={"vosi": _AVAILABILITY})
    said = [("available", "true" if available else "false")]
    if available:
        said.append(("upSince", to_iso(since)))
    said += [("note", legal(note)) for note in notes]
    for name, value in said:
        SubElement(root, f"{{{_AVAILABILITY}}}{name}").text = value
    return tostring(root, encoding="UTF-8", xml_declaration=True)


def capabilities_document(service: str, synchronous: str) -> bytes:
    """`vosi:capabilities` of the service at the address ``service``.

    Below the root nothing is qualified. Each interface has one access URL and no securityMethod: nobody
    has to log in (VOSI-05).
    """
    root = Element(
        f"{{{_CAPABILITIES}}}capabilities",
        nsmap={"vosi": _CAPABILITIES, "vs": _VODATASERVICE, "vr": _RESOURCE, "xsi": XSI},
    )
    _interface(_capability(root, "ivo://ivoa.net/std/VOSI#capabilities"), "full", f"{service}/capabilities")
    _interface(_capability(root, "ivo://ivoa.net/std/VOSI#availability"), "full", f"{service}/availability")
    _interface(_capability(root, "ivo://ivoa.net/std/UWS#rest-1.1"), "base", f"{service}/async", "1.1")
    sync = _capability(root, None)
    SubElement(sync, "description").text = legal(synchronous)
    _interface(sync, "base", f"{service}/sync")
    return tostring(root, encoding="UTF-8", xml_declaration=True)


def _capability(root: _Element, standard: str | None) -> _Element:
    return SubElement(root, "capability", {} if standard is None else {"standardID": standard})


def _interface(capability: _Element, use: str, address: str, version: str = "1.0") -> None:
    interface = SubElement(
        capability, "interface", {_TYPE: "vs:ParamHTTP", "role": "std", "version": version}
    )
    SubElement(interface, "accessURL", {"use": use}).text = address
