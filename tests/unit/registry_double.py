"""A registry over real HTTP, told what images it has, how to log in, and what to answer instead."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD, TOKEN = "archive", "open: sesame", "a-token"
BASIC = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"

Sent = tuple[int, dict[str, str], bytes]


def sha256(content: bytes) -> str:
    """A digest as the spec writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class RegistryDouble:
    """Manifests by tag and digest, and blobs by digest, of any repository.

    ``auth`` is '', 'basic' or 'bearer'; ``instead`` may answer a path itself. Every request is noted as its
    path and what it said to be allowed in.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.auth = ""
        self.realm = f"http://{address}/token"
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.instead: Callable[[str], Sent | Iterator[bytes] | None] = lambda _path: None
        self.requests: list[tuple[str, str]] = []

    @property
    def paths(self) -> list[str]:
        """What was asked for, without host and query."""
        return [urlsplit(path).path for path, _ in self.requests]

    def add(self, tag: str, config: Any, *, architecture: str = "amd64", **more: Any) -> str:
        """An image of one platform; the digest of its manifest."""
        whole = {"os": "linux", "architecture": architecture, "config": config}
        content = json.dumps(whole).encode()
        self.blobs[sha256(content)] = content
        described = {"mediaType": CONFIG, "digest": sha256(content), "size": len(content)}
        return self.put(tag, {"mediaType": MANIFEST, "config": described, "layers": [], **more})

    def index(self, tag: str, platforms: Sequence[tuple[str, str, str]], **more: Any) -> str:
        """An image of several platforms, each a system, a processor and the digest of a manifest."""
        listed = [
            {"mediaType": MANIFEST, "digest": digest, "platform": {"os": system, "architecture": processor}}
            for system, processor, digest in platforms
        ]
        return self.put(tag, {"mediaType": INDEX, "manifests": listed, **more})

    def put(self, tag: str, document: Any) -> str:
        """A manifest; its digest."""
        content = json.dumps(document).encode()
        self.manifests[tag] = self.manifests[sha256(content)] = content
        return sha256(content)

    def answer(self, path: str, allowed: str) -> Sent | Iterator[bytes]:
        """What is sent for a path with its query."""
        said = self.instead(path)
        if said is not None:
            return said
        parts = urlsplit(path)
        if parts.path == "/token":
            return self._token(parse_qs(parts.query), allowed)
        if refusal := self._refused(
            allowed, "nothing" if parts.path == "/v2/" else "repository:team/stars:pull"
        ):
            return refusal
        if parts.path == "/v2/":
            return 200, {}, b"{}"
        kind, _, name = parts.path.removeprefix("/v2/").rpartition("/")
        found = (self.manifests if kind.endswith("manifests") else self.blobs).get(name)
        if found is None:
            return 404, {}, b'{"errors": [{"code": "UNKNOWN", "message": "it is not known here"}]}'
        return 200, {}, found

    def _token(self, query: dict[str, list[str]], allowed: str) -> Sent:
        if query.get("service") != ["the-registry"] or allowed not in ("", BASIC):
            return 401, {}, b""
        # As real ones do: who does not log in gets a token for what is public.
        scope = query.get("scope", ["nothing"])[0]
        token = f"{TOKEN} {scope}" if allowed else "nobody"
        return 200, {}, json.dumps({"token": token}).encode()

    def _refused(self, allowed: str, scope: str) -> Sent | None:
        wanted = {"": allowed, "basic": BASIC, "bearer": f"Bearer {TOKEN} {scope}"}
        if allowed == wanted[self.auth]:
            return None
        asked = {
            "basic": 'Basic realm="the registry"',
            "bearer": f'Bearer realm="{self.realm}",service="the-registry",scope="repository:other:*"',
        }[self.auth]
        word = b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}'
        return 401, {"WWW-Authenticate": asked}, word


@contextmanager
def serving_registry() -> Iterator[RegistryDouble]:
    """A registry on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.requests.append((self.path, self.headers.get("Authorization", "")))
            said = registry.answer(self.path, self.headers.get("Authorization", ""))
            with suppress(OSError):  # who asked may have had enough
                if isinstance(said, tuple):
                    status, headers, body = said
                    self.send_response(status)
                    for name, text in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, text)
                    self.end_headers()
                    self.wfile.write(body)
                else:
                    for piece in said:
                        self.wfile.write(piece)

        def log_message(self, *_: object) -> None:
            """Tests tell what went wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = RegistryDouble(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
