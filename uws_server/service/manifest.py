"""The manifest of an attempt: where it lies, and what it lists. Who writes it is not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Job, Result
from uws_server.storage.base import NotStored, ObjectStore

MANIFEST = "manifest.json"
"""Its name below the attempt's prefix."""

RESULT_NAME = r"results/[^\x00-\x1f\x7f\ufffe\uffff]{1,900}"
"""What a result may be called there, as a regular expression."""

Listing = tuple[tuple[Result, ...], tuple[int, int] | None]
"""Results, and the sizes of stdout and stderr in bytes, None where it does not say."""

_RESULT = re.compile(RESULT_NAME)
_RESULT_ID = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,255}")  # goes into addresses and XML attributes
_MEDIA_TYPE = re.compile(
    r"[!-+\--~]{1,100}/[!-+\--~][ -+\--~]{0,200}"
)  # for a header; no comma, as that parts two
_SHA256 = re.compile(r"[0-9a-f]{0,64}")
_MOST = 2**63 - 1  # bytes that a size in the XML can say


def read_manifest(manifest: Mapping[str, Any]) -> Listing:
    """The results that a manifest lists, and the sizes of stdout and stderr.

    :raises BadRequest: it is no manifest.
    """
    try:
        results = tuple(
            Result(
                _text(item["id"], _RESULT_ID),
                _text(item["name"], _RESULT),
                _size(item["size"]),
                _text(item["media_type"], _MEDIA_TYPE),
                _text(item["sha256"], _SHA256),
            )
            for item in manifest["results"]
        )
        logs = manifest.get("logs")
        sizes = (_size(logs["stdout"]), _size(logs["stderr"])) if logs else None
    except KeyError as error:
        raise BadRequest(f"not a manifest: {str(error)[:80]} is missing") from None
    except (TypeError, AttributeError):
        raise BadRequest("not a manifest: a list or an object is of another type") from None
    except ValueError as error:
        raise BadRequest(f"not a manifest: {error}") from None
    if len({result.id for result in results}) != len(results):
        raise BadRequest("not a manifest: two results have the same id")
    return results, sizes


def _text(value: object, shape: re.Pattern[str]) -> str:
    if not isinstance(value, str) or shape.fullmatch(value) is None:
        raise ValueError(f"{str(value)[:80]!r} does not fit {shape.pattern}")
    return value


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{str(value)[:40]!r} is no number of bytes")
    return value


def load_manifest(objects: ObjectStore, job: Job) -> Listing | None:
    """What the current attempt's manifest lists, or None while there is none."""
    try:
        text = b"".join(objects.read(f"{job.attempt_prefix}/{MANIFEST}"))
    except NotStored:
        return None
    return read_manifest(json.loads(text))
