"""Requests to S3 that obstore does not have: signed and sent by ourselves, each on a connection of its own.

They go by the standard library's sockets, which a server of greenlets has made its own: nobody else waits
while one of them does.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

from lxml import etree

from uws_server.storage.base import Exists, NotStored, StorageUnavailable
from uws_server.storage.s3_bucket import SENTENCES, Bucket
from uws_server.storage.sigv4 import Key, presigned

_CONNECT = 5.0  # s
_SILENCE = 20.0  # s without a byte from the store
_RETRY_SECONDS = 15.0  # after which there is no other try
_LINK = 60  # s that the signature of a request holds
_TRIES = 4
_PAUSE = 0.1  # s before the second try, growing
_MOST = 16 * 1024**2  # bytes of an answer: 1,000 keys and their ids are less than 2 MiB
UNREADABLE = "its answer cannot be understood"
"""In the words of a message."""
_ABSENT = frozenset({"NoSuchUpload", "NoSuchKey"})


class NotOffered(StorageUnavailable):
    """The server has no such request."""


class _Broken(Exception):
    """There was no answer that counts; the message says why. Another try may get one."""


def url_of(bucket: Bucket, path: str) -> str:
    """The URL of the bucket, or of what is called ``path`` in it."""
    return f"{bucket.address}/{bucket.name}" + (f"/{quote(path, safe='/-._~')}" if path else "")


def ask(
    bucket: Bucket,
    key: Key,
    method: str,
    path: str,
    query: Mapping[str, str],
    body: bytes = b"",
    *,
    create: bool = False,
    silence: float | None = None,
    root: str = "",
) -> etree._Element:
    """What S3 answers, an empty element for no words. ``silence``: seconds that it may take, if that is long.

    A request may be made several times; what that does twice is for the caller to see to. With ``root``, an
    answer says yes only if it is a whole element of that name: proxies and cut connections say 200 too.

    :raises NotStored: there is no such upload or key.
    :raises Exists: with ``create``, there is an object already.
    :raises NotOffered: the server has no such request.
    :raises StorageUnavailable: whatever else.
    """
    signed = {"if-none-match": "*"} if create else {}
    began = time.monotonic()
    for failures in range(1, _TRIES + 1):
        at = datetime.now(UTC)
        link = presigned(
            method, url_of(bucket, path), key, bucket.region, _LINK, at, headers=signed, query=query
        )
        try:
            status, content = _answer(method, link, body, signed, silence or _SILENCE)
            return _judged(bucket, path, status, content, root)
        except _Broken as error:
            if failures == _TRIES or time.monotonic() - began > _RETRY_SECONDS:
                raise StorageUnavailable(f"{bucket.said}: {error}") from None
            time.sleep(_PAUSE * 3.0**failures / 3)
    raise AssertionError("unreachable")


def _answer(
    method: str, link: str, body: bytes, headers: Mapping[str, str], silence: float
) -> tuple[int, bytes]:
    parts = urlsplit(link)
    make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=_CONNECT)
    try:
        connection.connect()
        connection.sock.settimeout(silence)
        connection.request(
            method, f"{parts.path}?{parts.query}", body or None, {"Content-Length": str(len(body)), **headers}
        )
        answer = connection.getresponse()
        content = answer.read(_MOST)
        if answer.length:  # read() with a number does not mind
            raise _Broken("its answer is cut, or too long")
        return answer.status, content
    except socket.gaierror:
        raise _Broken("the name of its host is not known") from None
    except ssl.SSLCertVerificationError:
        raise _Broken("its certificate cannot be trusted") from None
    except ConnectionRefusedError:
        raise _Broken("nobody answers at that address") from None
    except TimeoutError:
        raise _Broken("it does not answer in time") from None
    except (OSError, HTTPException):
        raise _Broken("the connection broke off") from None
    finally:
        connection.close()


def _judged(bucket: Bucket, path: str, status: int, content: bytes, root: str) -> etree._Element:
    said = _element(content)
    name = _name(said)
    error = name == "Error"  # which may also come late, with status 200
    code = (said.findtext("{*}Code") or "") if error else ""
    if status < 300 and not error:
        # By its last bytes, as the parser closes what is open, and not every answer has a length.
        if root and (name != root or not content.rstrip().endswith(f"{root}>".encode())):
            raise _Broken(UNREADABLE)
        return said
    if code in _ABSENT:
        raise NotStored(path.removeprefix(bucket.below))
    if status == 412 or code in {"PreconditionFailed", "ConditionalRequestConflict"}:
        raise Exists(path.removeprefix(bucket.below))
    sentence = SENTENCES.get(code, f"it answered {status}{f' ({code})' if code.isalnum() else ''}")
    if status == 501:
        raise NotOffered(f"{bucket.said}: {sentence}")
    if status in {429, 500, 502, 503, 504} or status < 300:
        raise _Broken(sentence)
    raise StorageUnavailable(f"{bucket.said}: {sentence}")


def _element(content: bytes) -> etree._Element:
    """The answer as XML, an empty element for one that is none."""
    # Keys may have characters that no XML has; what is left of such a one names no upload, and that is all.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        said = etree.fromstring(content.strip(), parser)
    except etree.XMLSyntaxError:  # nothing is left to recover
        said = None
    return etree.Element("nothing") if said is None else said


def _name(element: etree._Element) -> str:
    """Without the namespace; an answer may have a name that `etree.QName` refuses."""
    return str(element.tag).rpartition("}")[2]
