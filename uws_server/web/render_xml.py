"""UWS documents as XML: `Job` → bytes.

The prefixes ``uws:``, ``xlink:`` and ``xsi:`` stand literally, as clients match them by name. lxml writes
what XML needs escaped; what XML cannot hold at all goes by reference or is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

from lxml.etree import Element, SubElement, _Element, tostring

from uws_server.domain.instants import Instant, to_iso
from uws_server.domain.job import Job, Parameter
from uws_server.service.results import Listed, listed
from uws_server.web.addresses import Addresses
from uws_server.web.parameters import NOT_IN_XML

UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XLINK = "http://www.w3.org/1999/xlink"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
CUSTOM = "urn:uwscustom"
JOB_INFO = "urn:uws-server:jobinfo:1"
"""Our own namespace, in `uws:jobInfo`. A name, not an address."""

LONGEST = 8192
"""Characters of a value that stands in the document; longer ones are read by reference (UWS-60)."""

_NSMAP = {"uws": UWS, "xlink": XLINK, "xsi": XSI, "uwsc": CUSTOM}
_INFO_NSMAP = {None: JOB_INFO}
_NIL = {f"{{{XSI}}}nil": "true"}
_TYPE = f"{{{XLINK}}}type"
_HREF = f"{{{XLINK}}}href"
_SHA256 = f"{{{CUSTOM}}}sha256"
_NAMES = (
    "jobs jobref job jobId runId ownerId phase quote creationTime startTime endTime executionDuration destruction "
    "parameters parameter results result errorSummary message jobInfo"
)
_TAG = {name: f"{{{UWS}}}{name}" for name in _NAMES.split()}
_INFO = {
    name: f"{{{JOB_INFO}}}{name}" for name in ("info", "site", "attempt", "reason", "progress", "finalising")
}


def job_document(job: Job, addresses: Addresses) -> bytes:
    """One job, every element in the order of the schema (UWS-02, UWS-14)."""
    root = Element(_TAG["job"], nsmap=_NSMAP)
    root.set("version", "1.1")
    _text(root, "jobId", job.id)
    if job.run_id:
        _text(root, "runId", job.run_id)
    _owner(root, job)
    _text(root, "phase", job.phase.value)
    _instant(root, "quote", job.quote)
    _instant(root, "creationTime", job.created)
    _instant(root, "startTime", job.started)
    _instant(root, "endTime", job.ended)
    _text(root, "executionDuration", str(job.duration))
    _instant(root, "destruction", job.destruction)
    _parameters(SubElement(root, _TAG["parameters"]), job, addresses)
    _results(SubElement(root, _TAG["results"]), job, listed(job), addresses)
    if job.error is not None:
        summary = SubElement(root, _TAG["errorSummary"])
        summary.set("type", "transient" if job.error.transient else "fatal")
        summary.set("hasDetail", "true" if job.error.detail else "false")
        _text(summary, "message", legal(job.error.message))
    _job_info(root, job)
    return _document(root, addresses)


def job_list(service: str, jobs: Sequence[Job], addresses: Addresses) -> bytes:
    """The job list (UWS-34)."""
    root = Element(_TAG["jobs"], nsmap=_NSMAP)
    root.set("version", "1.1")
    below = addresses.jobs(service) + "/"
    for job in jobs:
        ref = SubElement(root, _TAG["jobref"])
        ref.set("id", job.id)
        ref.set(_TYPE, "simple")
        ref.set(_HREF, below + job.id)
        _text(ref, "phase", job.phase.value)
        if job.run_id:
            _text(ref, "runId", job.run_id)
        _owner(ref, job)
        _instant(ref, "creationTime", job.created)
    return _document(root, addresses)


def results_document(job: Job, addresses: Addresses) -> bytes:
    """The results list alone; empty, never absent."""
    root = Element(_TAG["results"], nsmap=_NSMAP)
    _results(root, job, listed(job), addresses)
    return _document(root, addresses)


def parameters_document(job: Job, addresses: Addresses) -> bytes:
    """The parameters alone."""
    root = Element(_TAG["parameters"], nsmap=_NSMAP)
    _parameters(root, job, addresses)
    return _document(root, addresses)


def by_reference(parameter: Parameter) -> bool:
    """Whether a parameter's value is to be read at its own address (UWS-60, UWS-63)."""
    return (
        parameter.upload is not None
        or len(parameter.value) > LONGEST
        or NOT_IN_XML.search(parameter.value) is not None
    )


def legal(text: str) -> str:
    """The text, with a mark in the place of each character that XML cannot hold."""
    return NOT_IN_XML.sub("\ufffd", text)


def _document(root: _Element, addresses: Addresses) -> bytes:
    # A browser shows XML readably with the style sheet; XSLT is on its way out of browsers.
    head = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<?xml-stylesheet type="text/css" href="{addresses.style.replace("&", "&amp;")}"?>\n'
    )
    return head.encode() + tostring(root, encoding="UTF-8", xml_declaration=False)


def _text(parent: _Element, name: str, text: str) -> None:
    SubElement(parent, _TAG[name]).text = text


def _instant(parent: _Element, name: str, instant: Instant | None) -> None:
    if instant is None:
        SubElement(parent, _TAG[name], _NIL)
    else:
        SubElement(parent, _TAG[name]).text = to_iso(instant)


def _owner(parent: _Element, job: Job) -> None:
    if job.owner:
        _text(parent, "ownerId", legal(job.owner))
    else:
        SubElement(parent, _TAG["ownerId"], _NIL)


def _parameters(parent: _Element, job: Job, addresses: Addresses) -> None:
    for parameter in job.parameters:
        element = SubElement(parent, _TAG["parameter"])
        element.set("id", parameter.name)
        if by_reference(parameter):
            element.set("byReference", "true")
            element.text = addresses.parameter(job.service, job.id, parameter.name)
        else:
            element.text = parameter.value


def _results(parent: _Element, job: Job, results: Sequence[Listed], addresses: Addresses) -> None:
    for result in results:
        element = SubElement(parent, _TAG["result"])
        element.set("id", legal(result.id))
        element.set(_TYPE, "simple")
        element.set(_HREF, addresses.result(job.service, job.id, result.id))
        if result.size is not None:
            element.set("size", str(result.size))
        element.set("mime-type", legal(result.media_type))
        if result.sha256:
            element.set(_SHA256, legal(result.sha256))


def _job_info(root: _Element, job: Job) -> None:
    said = [("site", job.site), ("attempt", str(job.attempt or "")), ("reason", job.reason)]
    if not any(text for _, text in said) and job.progress is None and not job.finalising:
        return
    info = SubElement(SubElement(root, _TAG["jobInfo"]), _INFO["info"], nsmap=_INFO_NSMAP)  # type: ignore[arg-type]
    for name, text in said:
        if text:
            SubElement(info, _INFO[name]).text = legal(text)
    if job.progress is not None:
        done, of = job.progress
        SubElement(info, _INFO["progress"], {"done": str(done), "of": str(of)})
    if job.finalising:
        SubElement(info, _INFO["finalising"]).text = "true"
