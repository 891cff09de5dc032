"""What the agent beside a job and the server say to each other over ``/agent/v1``: one text for both sides.

Each call is a POST of one JSON object with the attempt's token as bearer token:

* ``begin`` ``{"place": POD}`` → ``{"spec": TEXT}``, the run spec, for the first place that asks and no other
* ``started`` ``{"at": MILLISECONDS}`` → 204, when the user's code has started
* ``links`` ``{"objects": [Wanted, …]}`` → ``{"links": [Link, …]}``, in the same order
* ``parts`` `WantedParts` → `Upload`: begin to store a large object, or go on with it
* ``complete`` `WantedParts` → 204, when all parts are there, and also when it was completed before; 412
  when they are not, or the upload has ended: ``parts`` says what to send
* ``progress`` ``{"done": 2, "of": 5}`` → 204
* ``manifest`` the manifest → 204, also when the very same one is there already; another one is 409

The links themselves lead to an object store, which may be this server (`uws_server.web.storage`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PATH = "/agent/v1"
BEGIN = "begin"
STARTED = "started"
LINKS = "links"
PARTS = "parts"
COMPLETE = "complete"
PROGRESS = "progress"
MANIFEST = "manifest"

OWN_WORD = ("UWS-Answer", "own")
"""A header on every refusal of ours. Whoever is on the way to us, such as a proxy whose web is just being
started, answers 401, 403 and 404 as well; an agent that took its word would give up a job that is done."""

MOST_LINKS = 100  # in one call
MESSAGE_BYTES = 1024**2
SPEC_BYTES = 64 * 1024**2  # notebooks that a template ships are in it
MANIFEST_BYTES = 16 * 1024**2  # a thousand results and more

# How the agent ends, besides 0.
STAGE_IN_FAILED = 65
STAGE_OUT_FAILED = 66
FENCED = 67

STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object that the agent wants to PUT or GET; ``size`` in bytes counts for PUT.

    ``name`` is `segment_name` or `result_name` of what the attempt stores, or `upload_name`. ``parts``: who
    asks can PUT it in parts.
    """

    method: Literal["GET", "PUT"]
    name: str
    size: int = 0
    parts: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """Permission for one object, for about a minute: a URL, maybe relative, and headers to send along.

    With ``parts`` there is no URL: the object is to be stored in parts.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    parts: bool = False


@dataclass(frozen=True, slots=True)
class WantedParts:
    """A large result of ``size`` bytes that the agent stores in parts.

    ``upload`` is what the server called the upload when it was begun; empty, or no longer known there, begins
    another one and ends all earlier ones of this name.
    """

    name: str
    size: int
    upload: str = ""


@dataclass(frozen=True, slots=True)
class PartLink:
    """Where to PUT the bytes of an object from ``start`` on, ``size`` of them."""

    number: int
    start: int
    size: int
    url: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An object on its way: the first of the parts that are missing, by number. None are: complete it."""

    upload: str
    missing: list[PartLink]


def segment_name(stream: str, offset: int) -> str:
    """The part of a log that begins at this byte."""
    return f"logs/{stream}/{offset:015d}"


def result_name(path: str) -> str:
    """The file at this path beneath the output root."""
    return f"results/{path}"


def upload_name(parameter: str) -> str:
    """What came with the job as this parameter."""
    return f"parameters/{parameter}"
