"""UWS documents as XML: `Job` → bytes.

The prefixes ``uws:``, ``xlink:`` and ``xsi:`` stand literally, as clients match them by name. The text is put
together here and not by a library: reading a job is what clients do most, and this is three times as
fast. What XML needs escaped is escaped in `_text` and `_attribute`, through which every value goes; what XML
cannot hold at all goes by reference or is replaced. Tests hold every document against the schemas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from uws_server.domain.instants import Instant, to_iso
from uws_server.domain.job import Job, Parameter
from uws_server.service.results import Listed, listed
from uws_server.web.addresses import Addresses

UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XLINK = "http://www.w3.org/1999/xlink"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
CUSTOM = "urn:uwscustom"
JOB_INFO = "urn:uws-server:jobinfo:1"
"""Our own namespace, in `uws:jobInfo`. A name, not an address."""

LONGEST = 8192
"""Characters of a value that stands in the document; longer ones are read by reference (UWS-60)."""

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document can hold, escaped or not."""

_NAMESPACES = f'xmlns:uws="{UWS}" xmlns:xlink="{XLINK}" xmlns:xsi="{XSI}" xmlns:uwsc="{CUSTOM}"'
# What a parser would not give back as it stood: it turns CR into LF, and any space of an attribute into one.
_IN_TEXT = re.compile("[&<>\r]")
_IN_ATTRIBUTE = re.compile('[&<>"\t\n\r]')
_REFERENCES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#13;",
}


def job_document(job: Job, addresses: Addresses) -> bytes:
    """One job, every element in the order of the schema (UWS-02, UWS-14)."""
    run_id = f"<uws:runId>{_text(job.run_id)}</uws:runId>" if job.run_id else ""
    return _document(
        f'<uws:job {_NAMESPACES} version="1.1"><uws:jobId>{_text(job.id)}</uws:jobId>{run_id}{_owner(job)}'
        f"<uws:phase>{job.phase.value}</uws:phase>{_instant('quote', job.quote)}"
        f"{_instant('creationTime', job.created)}{_instant('startTime', job.started)}"
        f"{_instant('endTime', job.ended)}<uws:executionDuration>{job.duration}</uws:executionDuration>"
        f"{_instant('destruction', job.destruction)}"
        f"{_list('parameters', '', _parameters(job, addresses))}"
        f"{_list('results', '', _results(job, addresses))}"
        f"{_error(job)}{_job_info(job)}</uws:job>",
        addresses,
    )


def job_list(service: str, jobs: Sequence[Job], addresses: Addresses) -> bytes:
    """The job list (UWS-34)."""
    below = _attribute(addresses.jobs(service) + "/")
    refs = [
        f'<uws:jobref id="{_attribute(job.id)}" xlink:type="simple" xlink:href="{below}{_attribute(job.id)}">'
        f"<uws:phase>{job.phase.value}</uws:phase>"
        f"{f'<uws:runId>{_text(job.run_id)}</uws:runId>' if job.run_id else ''}{_owner(job)}"
        f"{_instant('creationTime', job.created)}</uws:jobref>"
        for job in jobs
    ]
    return _document(_list("jobs", f' {_NAMESPACES} version="1.1"', "".join(refs)), addresses)


def results_document(job: Job, addresses: Addresses) -> bytes:
    """The results list alone; empty, never absent."""
    return _document(_list("results", f" {_NAMESPACES}", _results(job, addresses)), addresses)


def parameters_document(job: Job, addresses: Addresses) -> bytes:
    """The parameters alone."""
    return _document(_list("parameters", f" {_NAMESPACES}", _parameters(job, addresses)), addresses)


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


def _document(root: str, addresses: Addresses) -> bytes:
    # A browser shows XML readably with the style sheet; XSLT is on its way out of browsers.
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<?xml-stylesheet type="text/css" href="{_attribute(addresses.style)}"?>\n{root}'
    ).encode()


def _referenced(match: re.Match[str]) -> str:
    return _REFERENCES[match[0]]


def _text(value: str) -> str:
    if value.isalnum():  # most are, and none of those needs anything
        return value
    return _IN_TEXT.sub(_referenced, NOT_IN_XML.sub("\ufffd", value))


def _attribute(value: str) -> str:
    if value.isalnum():
        return value
    return _IN_ATTRIBUTE.sub(_referenced, NOT_IN_XML.sub("\ufffd", value))


def _list(name: str, attributes: str, content: str) -> str:
    return f"<uws:{name}{attributes}>{content}</uws:{name}>" if content else f"<uws:{name}{attributes}/>"


def _instant(name: str, instant: Instant | None) -> str:
    if instant is None:
        return f'<uws:{name} xsi:nil="true"/>'
    return f"<uws:{name}>{to_iso(instant)}</uws:{name}>"


def _owner(job: Job) -> str:
    return f"<uws:ownerId>{_text(job.owner)}</uws:ownerId>" if job.owner else '<uws:ownerId xsi:nil="true"/>'


def _parameters(job: Job, addresses: Addresses) -> str:
    return "".join([_parameter(job, parameter, addresses) for parameter in job.parameters])


def _parameter(job: Job, parameter: Parameter, addresses: Addresses) -> str:
    name = _attribute(parameter.name)
    if by_reference(parameter):
        address = _text(addresses.parameter(job.service, job.id, parameter.name))
        return f'<uws:parameter id="{name}" byReference="true">{address}</uws:parameter>'
    return f'<uws:parameter id="{name}">{_text(parameter.value)}</uws:parameter>'


def _results(job: Job, addresses: Addresses) -> str:
    return "".join([_result(job, result, addresses) for result in listed(job)])


def _result(job: Job, result: Listed, addresses: Addresses) -> str:
    size = "" if result.size is None else f' size="{result.size}"'
    sha256 = f' uwsc:sha256="{_attribute(result.sha256)}"' if result.sha256 else ""
    return (
        f'<uws:result id="{_attribute(result.id)}" xlink:type="simple" '
        f'xlink:href="{_attribute(addresses.result(job.service, job.id, result.id))}"{size} '
        f'mime-type="{_attribute(result.media_type)}"{sha256}/>'
    )


def _error(job: Job) -> str:
    if job.error is None:
        return ""
    kind, detail = (
        ("transient" if job.error.transient else "fatal"),
        ("true" if job.error.detail else "false"),
    )
    return (
        f'<uws:errorSummary type="{kind}" hasDetail="{detail}">'
        f"<uws:message>{_text(job.error.message)}</uws:message></uws:errorSummary>"
    )


def _job_info(job: Job) -> str:
    said = [("site", job.site), ("attempt", str(job.attempt or ""))]
    said += [("image", job.image), ("reason", job.reason)]
    content = "".join([f"<{name}>{_text(text)}</{name}>" for name, text in said if text])
    if job.progress is not None:
        content += f'<progress done="{job.progress[0]}" of="{job.progress[1]}"/>'
    if job.finalising:
        content += "<finalising>true</finalising>"
    return f'<uws:jobInfo><info xmlns="{JOB_INFO}">{content}</info></uws:jobInfo>' if content else ""
