"""What the agent's tests need around a real agent process: an attempt's directory, a door, web servers.

The door speaks the contract of ``/agent/v1`` over real HTTP, in front of the real file store and
the real signed route. Whatever it is asked is kept, and single answers can be replaced by faults.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.waiting import PATIENCE
from uws_server.domain.runspec import AttemptLimits, Input, Output, Resources, RunSpec
from uws_server.domain.wire import LINKS, MANIFEST, MOST_LINKS, OWN_WORD, PATH, PROGRESS
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links
from uws_server.web.storage import storage_blueprint

JOB = "0" + "a" * 25
TOKEN = f"{JOB}.1.0123abcd"
OURS = dict([OWN_WORD])  # by which the agent knows the door's own word
Fault = Callable[[str], Response | None]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object, **__: object) -> None:
        """Tests tell what went wrong."""


@contextmanager
def serving(app: Flask, port: int = 0) -> Iterator[int]:
    """The application on a port of loopback, a thread per request."""
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class DoorDouble:
    """The door, its store, and all that was asked of it."""

    root: Path
    fault: Fault = field(default=lambda _: None)
    puts: list[tuple[str, int]] = field(default_factory=list)
    bought: list[list[str]] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)
    manifests: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: int = 60

    def __post_init__(self) -> None:
        self.links = Links(b"k" * 32)  # relative to the door
        self.store = FileStore(self.root, self.links)

    def app(self) -> Flask:
        app = Flask("door")
        app.before_request(self._before)
        app.register_blueprint(storage_blueprint(self.store, self.links))
        agent = Blueprint("agent", "agent", url_prefix=PATH)
        agent.post(f"/{LINKS}")(self._links)
        agent.post(f"/{PROGRESS}")(self._progress)
        agent.post(f"/{MANIFEST}")(self._manifest)
        app.register_blueprint(agent)
        return app

    def stored(self, name: str) -> bytes:
        """The object of this name, below the attempt's prefix."""
        return b"".join(self.store.read(f"jobs/{JOB}/1/{name}"))

    def names(self, below: str) -> list[str]:
        prefix = f"jobs/{JOB}/1"
        return [one.key.removeprefix(f"{prefix}/") for one in self.store.list(f"{prefix}/{below}")]

    def log(self, stream: str) -> bytes:
        """A log as a reader puts it together; every segment must begin where the one before ends."""
        whole = b""
        for name in self.names(f"logs/{stream}"):
            assert int(name.rpartition("/")[2]) == len(whole), self.names(f"logs/{stream}")
            whole += self.stored(name)
        return whole

    def _before(self) -> Response | None:
        fault = self.fault(f"{request.method} {request.path}")
        if fault is not None:
            return fault
        if request.method == "PUT":
            with self.lock:
                self.puts.append((request.path.partition("/1/")[2], request.content_length or 0))
        elif request.path.startswith("/agent/") and request.headers["Authorization"] != f"Bearer {TOKEN}":
            return Response("The token is not right.\n", 401, OURS)
        return None

    def _links(self) -> Response:
        objects = json.loads(request.data)["objects"]
        assert len(objects) <= MOST_LINKS
        links = []
        for one in objects:
            if one["method"] == "GET":
                assert one["name"].startswith("parameters/")
                url = self.links.sign("GET", f"jobs/{JOB}/{one['name']}", self.seconds)
            else:
                assert one["name"].startswith(("logs/", "results/"))
                url = self.links.sign("PUT", f"jobs/{JOB}/1/{one['name']}", self.seconds, one["size"])
            links.append({"url": url, "headers": {}})
        with self.lock:
            self.bought.append([one["name"] for one in objects])
        return jsonify({"links": links})

    def _progress(self) -> Response:
        body = json.loads(request.data)
        self.progress.append((body["done"], body["of"]))
        return Response(status=204)

    def _manifest(self) -> Response:
        manifest = json.loads(request.data)
        with self.lock:
            if self.manifests and self.manifests[0] != manifest:
                return Response("Another manifest is in.\n", 409)
            self.manifests.append(manifest)
        return Response(status=204)


class Attempt:
    """An attempt's directory, as a runner makes it, and agents that work on it."""

    def __init__(
        self,
        top: Path,
        port: int,
        *,
        inputs: Sequence[Input] = (),
        outputs: Sequence[Output] = (Output("result", "**"),),
        limits: AttemptLimits | None = None,
        resources: Resources | None = None,
        **access: Any,
    ) -> None:
        self.top = top
        self.logs = top / "logs"
        self.outputs = top / "work" / "outputs"
        self.inputs = top / "work" / "inputs"
        self.uws = top / "work" / "uws"
        for directory in (self.logs, self.outputs, self.inputs, self.uws, top / "work" / "tmp"):
            directory.mkdir(parents=True)
        spec = RunSpec(
            JOB,
            1,
            "test",
            "command",
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            limits=limits or AttemptLimits(),
            resources=resources or Resources(),
        )
        (top / "spec.json").write_text(spec.to_json())
        door = {"url": f"http://127.0.0.1:{port}{PATH}", "token": TOKEN, **access}
        (top / "agent.json").write_text(json.dumps(door))

    def start(self, command: str) -> subprocess.Popen[str]:
        """A real agent process."""
        return subprocess.Popen(
            [sys.executable, "-m", "runners.agent", command, str(self.top)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *, seconds: float = PATIENCE) -> int:
        """An agent to its end; its exit code. A stack trace fails the test."""
        return ended(self.start(command), seconds)

    def end(self, code: int = 0, how: str = "") -> None:
        """The user's code has ended; in a pod a wrapper says ``how``."""
        (self.logs / "exit.new").write_text(f"{code} 1700000000000 {how}\n")
        (self.logs / "exit.new").rename(self.logs / "exit")

    def said(self, name: str) -> dict[str, Any]:
        """stage-in or stage-out.json."""
        answer: dict[str, Any] = json.loads((self.top / f"{name}.json").read_bytes())
        return answer


def ended(process: subprocess.Popen[str], seconds: float = PATIENCE) -> int:
    """Wait for an agent's end; a stack trace fails the test."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert errors == ""
    return process.returncode


def kill(process: subprocess.Popen[str]) -> None:
    """End it as a crash does."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
