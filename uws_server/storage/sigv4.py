"""Signed links to S3, made by ourselves: Signature Version 4 in the query, as every S3 server checks it.

obstore signs links too, but no header of a request and no header of the answer. Signing them is what
holds an upload to its length and lets a download say its name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_UNRESERVED = "-._~"
LONGEST = 7 * 24 * 3600
"""Seconds that S3 lets a signed link live."""


@dataclass(frozen=True, slots=True)
class Key:
    """An access key. ``token`` belongs to keys that live for some hours."""

    id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def presigned(
    method: str,
    url: str,
    key: Key,
    region: str,
    seconds: int,
    at: datetime,
    *,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> str:
    """``url``, whose path is encoded already, with a signature for one method from ``at`` on.

    Whoever uses the link must send ``headers``, in lower case here, with just these values; ``query`` is
    asked along. The text that is signed: the S3 API reference, "Authenticating Requests: Using Query
    Parameters".
    """
    host, path = urlsplit(url).netloc, urlsplit(url).path
    instant = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{instant[:8]}/{region}/s3/aws4_request"
    signed = {"host": host, **(headers or {})}
    asked = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key.id}/{scope}",
        "X-Amz-Date": instant,
        "X-Amz-Expires": str(min(seconds, LONGEST)),
        "X-Amz-SignedHeaders": ";".join(sorted(signed)),
        **({"X-Amz-Security-Token": key.token} if key.token else {}),
        **(query or {}),
    }
    text = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(asked.items()))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = "\n".join((method, path, text, lines, ";".join(sorted(signed)), "UNSIGNED-PAYLOAD"))
    digest = hashlib.sha256(request.encode()).hexdigest()
    signing = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
    to_sign = f"AWS4-HMAC-SHA256\n{instant}\n{scope}\n{digest}"
    signature = hmac.new(signing, to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{url}?{text}&X-Amz-Signature={signature}"


def _encoded(text: str) -> str:
    return quote(text, safe=_UNRESERVED)
