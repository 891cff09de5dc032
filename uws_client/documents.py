"""UWS documents, read into frozen values.

Servers differ: other prefixes, relative links, missing or empty optional elements, times with and
without ``Z``. What can be understood without guessing is understood; what is missing is ``None``.
A document type declaration is refused, so that no entity is ever expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urljoin, urlsplit

from lxml import etree

from uws_client.errors import NotUws

_NAMESPACE = "http://www.ivoa.net/xml/UWS/v1.0"
_XLINK = "http://www.w3.org/1999/xlink"


class Phase(StrEnum):
    """The phases of UWS 1.1."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    ABORTED = "ABORTED"
    HELD = "HELD"
    SUSPENDED = "SUSPENDED"
    UNKNOWN = "UNKNOWN"
    ARCHIVED = "ARCHIVED"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self in _FINAL

    @property
    def blocking(self) -> bool:
        """Whether ``WAIT`` blocks in this phase (UWS-45)."""
        return self in _BLOCKING


_FINAL = frozenset({Phase.COMPLETED, Phase.ERROR, Phase.ABORTED, Phase.ARCHIVED})
_BLOCKING = frozenset({Phase.PENDING, Phase.QUEUED, Phase.EXECUTING})


@dataclass(frozen=True, slots=True)
class JobRef:
    """One entry of a job list."""

    id: str
    url: str
    phase: Phase
    run_id: str | None = None
    owner: str | None = None
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; with ``by_reference`` the value is the URL of its content."""

    name: str
    value: str
    by_reference: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One result. ``size`` in bytes; ``sha256`` in lower-case hexadecimal digits."""

    id: str
    url: str
    size: int | None = None
    media_type: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Why a job failed. ``transient``: it may work if tried again."""

    message: str
    transient: bool = False
    has_detail: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its server showed it. ``duration`` in seconds, 0 = unlimited.

    ``info`` flattens the job info: the text of each leaf element by its name, each attribute as
    ``element.attribute``.
    """

    url: str
    id: str
    phase: Phase
    version: str = "1.0"
    run_id: str | None = None
    owner: str | None = None
    quote: datetime | None = None
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    duration: int | None = None
    destruction: datetime | None = None
    parameters: tuple[Parameter, ...] = ()
    results: tuple[Result, ...] = ()
    error: ErrorSummary | None = None
    info: Mapping[str, str] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether the server promises to honour ``WAIT``: UWS 1.1 or later (UWS-01)."""
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (1, 1)

    @property
    def progress(self) -> tuple[int, int] | None:
        """What is done, of how much, when the job info says so."""
        done = self.info.get("progress.done", self.info.get("done", ""))
        of = self.info.get("progress.of", self.info.get("of", ""))
        if not done:
            words = re.fullmatch(r"\s*(\d+)\s*(?:/|of)\s*(\d+)\s*", self.info.get("progress", ""))
            done, of = (words[1], words[2]) if words else ("", "")
        return (int(done), int(of)) if done.isdecimal() and of.isdecimal() else None

    @property
    def reason(self) -> str:
        """Why it is not further, in the server's words; '' when it says nothing."""
        return self.info.get("reason", "")

    @property
    def finalising(self) -> bool:
        """Whether results may still appear although the phase is final; a word of our own server."""
        return self.phase.final and self.info.get("finalising", "false") not in {"false", "0"}

    def result(self, result_id: str) -> Result | None:
        """The result with this id."""
        return next((result for result in self.results if result.id == result_id), None)


def as_json(value: Any) -> dict[str, Any]:
    """A value of this module in the types of JSON; instants as UWS writes them."""
    answer: dict[str, Any] = asdict(value, dict_factory=_json_items)
    return answer


def read_job(content: bytes, url: str) -> Job:
    """The job document that ``url`` answered.

    :raises NotUws: it is none.
    """
    root = _root(content, url, "job")
    job_id = _text(root, "jobId") or urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return Job(
        url=url,
        id=job_id,
        phase=_phase(_text(root, "phase"), url),
        version=root.get("version") or "1.0",
        run_id=_text(root, "runId"),
        owner=_text(root, "ownerId"),
        quote=_instant(root, "quote"),
        created=_instant(root, "creationTime"),
        started=_instant(root, "startTime"),
        ended=_instant(root, "endTime"),
        duration=_number(_text(root, "executionDuration")),
        destruction=_instant(root, "destruction"),
        parameters=tuple(_parameters(root)),
        results=tuple(_results(root, url)),
        error=_error(root),
        info=_info(root),
    )


def read_job_list(content: bytes, url: str) -> tuple[JobRef, ...]:
    """The jobs of the list that ``url`` answered, in its order.

    :raises NotUws: it is none.
    """
    refs = []
    for item in _children(_root(content, url, "jobs"), "jobref"):
        job_id = item.get("id") or ""
        href = _href(item) or job_id
        if href:
            refs.append(
                JobRef(
                    id=job_id or href.rstrip("/").rpartition("/")[2],
                    url=_below(url, href),
                    phase=_phase(_text(item, "phase"), url),
                    run_id=_text(item, "runId"),
                    owner=_text(item, "ownerId"),
                    created=_instant(item, "creationTime"),
                )
            )
    return tuple(refs)


def parse_instant(text: str) -> datetime | None:
    """An ISO 8601 instant, taken as UTC where it says no zone; None when it is none.

    Fractions finer than a microsecond are cut.
    """
    try:
        instant = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.strip()))
    except ValueError:
        return None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def format_instant(instant: datetime) -> str:
    """As UWS writes it: UTC, with ``T`` and ``Z``, milliseconds where there are some."""
    utc = instant.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds") + "Z"


def _json_items(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: format_instant(value) if isinstance(value, datetime) else value for name, value in items}


def _root(content: bytes, url: str, name: str) -> etree._Element:
    kind = {"job": "job", "jobs": "job list"}[name]
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise NotUws(
            f"{url} did not answer with XML: {error.msg}. Is this the address of a {kind}?"
        ) from error
    if root.getroottree().docinfo.doctype:  # type: ignore[union-attr]
        raise NotUws(f"{url} answered with a document type declaration, which UWS has no use for")
    if etree.QName(root).localname != name:
        raise NotUws(
            f"{url} answered with <{etree.QName(root).localname}>, not with the UWS element <{name}>. "
            f"Is this the address of a {kind}?"
        )
    return root


def _children(element: etree._Element, name: str) -> Iterator[etree._Element]:
    """The children of this name, in the UWS namespace or, as some servers write, in none."""
    for child in element:
        tag = etree.QName(child)
        if tag.localname == name and tag.namespace in {_NAMESPACE, None}:
            yield child


def _child(element: etree._Element, name: str) -> etree._Element | None:
    return next(_children(element, name), None)


def _text(element: etree._Element, name: str) -> str | None:
    child = _child(element, name)
    if child is None:
        return None
    return _words(child).strip() or None


def _words(element: etree._Element) -> str:
    """All text within, also that of children that do not belong there."""
    return "".join(str(piece) for piece in element.itertext())


def _instant(element: etree._Element, name: str) -> datetime | None:
    return parse_instant(_text(element, name) or "")


def _number(text: str | None) -> int | None:
    """A whole number of at most 18 digits; decimals are cut, as some servers print ``60.0``."""
    digits = re.fullmatch(r"(\d{1,18})(?:\.\d*)?", text or "")
    return int(digits[1]) if digits else None


def _phase(word: str | None, url: str) -> Phase:
    if word is None:
        raise NotUws(f"{url} answered with a job without a phase")
    return Phase(word) if word in Phase.__members__ else Phase.UNKNOWN


def _href(element: etree._Element) -> str | None:
    return (element.get(f"{{{_XLINK}}}href") or element.get("href") or "").strip() or None


def _below(url: str, href: str) -> str:
    """A link resolved against its document; relative ones are meant below it, slash or not."""
    try:
        return urljoin(url.partition("?")[0].rstrip("/") + "/", href)
    except ValueError as error:
        raise NotUws(f"{url} answered with the broken link {href[:80]!r}") from error


def _parameters(root: etree._Element) -> Iterator[Parameter]:
    listed = _child(root, "parameters")
    for item in _children(listed, "parameter") if listed is not None else ():
        by_reference = (item.get("byReference") or "false").strip() in {"true", "1"}
        yield Parameter(item.get("id") or "", _words(item), by_reference)


def _results(root: etree._Element, url: str) -> Iterator[Result]:
    listed = _child(root, "results")
    for item in _children(listed, "result") if listed is not None else ():
        href = _href(item)
        result_id = item.get("id") or (href or "").rstrip("/").rpartition("/")[2]
        if result_id:
            yield Result(
                id=result_id,
                url=_below(url, href or f"results/{result_id}"),
                size=_number(item.get("size")),
                media_type=item.get("mime-type"),
                sha256=_sha256(item),
            )


def _sha256(item: etree._Element) -> str | None:
    """The checksum in an attribute named ``sha256`` of whatever namespace."""
    for name, value in item.attrib.items():
        digits = str(value).strip().lower()
        if etree.QName(name).localname == "sha256" and re.fullmatch(r"[0-9a-f]{64}", digits):
            return digits
    return None


def _error(root: etree._Element) -> ErrorSummary | None:
    item = _child(root, "errorSummary")
    if item is None:
        return None
    # Some servers put the bare text where the message belongs.
    message = _text(item, "message") or _words(item).strip()
    return ErrorSummary(message, item.get("type") == "transient", item.get("hasDetail") in {"true", "1"})


def _info(root: etree._Element) -> dict[str, str]:
    answer: dict[str, str] = {}
    element = _child(root, "jobInfo")
    for item in element.iterdescendants() if element is not None else ():
        name = etree.QName(item).localname
        if len(item) == 0 and (item.text or not item.attrib):
            answer.setdefault(name, (item.text or "").strip())
        for attribute, value in item.attrib.items():
            answer.setdefault(f"{name}.{etree.QName(attribute).localname}", str(value).strip())
    if element is not None and len(element) == 0 and (element.text or "").strip():
        answer["text"] = (element.text or "").strip()
    return answer
