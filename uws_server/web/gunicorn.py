"""How gunicorn runs the web processes. It reads this module by name; the settings decide.

Only parsing and limits stand here. The patching of the standard library for greenlets is the worker
class's, in each process after the fork; nothing of ours is imported before it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
from typing import NoReturn, Protocol

from uws_server import logs
from uws_server.config import load
from uws_server.listening import bracketed


class Arbiter(Protocol):
    """The part of gunicorn's arbiter that is used here; gunicorn has no types."""

    pid: int


_settings = load()
_PR_SET_PDEATHSIG = 1

wsgi_app = "uws_server.web.entry:app"
bind = [f"{bracketed(_settings.web.host)}:{_settings.web.port}", *_settings.operator.addresses]
backlog = 4096
workers = _settings.web.workers
worker_class = "uws_server.web.worker.Worker"
worker_connections = _settings.web.connections
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  a file without a name
timeout = 60
graceful_timeout = _settings.web.stop_seconds
keepalive = _settings.web.idle_seconds
limit_request_line = _settings.limits.request_line
limit_request_fields = _settings.limits.header_fields
limit_request_field_size = _settings.limits.header_field
# Headers that could move the application to another path: `web.base_url` says where we are.
forwarder_headers = ""
control_socket_disable = True
accesslog = None
logger_class = "uws_server.web.worker.QuietLog"
errorlog = "-"
logconfig_dict = logs.dictionary(_settings.log.format, _settings.log.level)
logs.catch(_settings.log.format)


_numbers: str | None = None
if _settings.operator.port and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # Before anything that counts is imported: these processes tell their numbers as one.
    _numbers = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="uws-metrics-")


_refusal = mmap.mmap(-1, 1)  # shared with the web processes; the exit code of one that cannot work


def refuse(code: int) -> NoReturn:
    """End this web process, and with it gunicorn: no other would fare better."""
    _refusal[0] = code
    sys.exit(code)


def child_exit(server: Arbiter, _worker: object) -> None:
    """End as a web process has said; gunicorn would start it again and again, or end with a traceback."""
    if code := _refusal[0]:
        on_exit(server)
        sys.exit(code)


def on_exit(_server: Arbiter) -> None:
    """Leave nothing behind."""
    if _numbers is not None:
        shutil.rmtree(_numbers, ignore_errors=True)


def on_starting(_server: Arbiter) -> None:
    """Permit as many open connections as the system does: each parked request is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def post_fork(server: Arbiter, _worker: object) -> None:
    """A web process ends with its arbiter, also when that one is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server.pid:
        sys.exit(0)
