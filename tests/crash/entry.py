"""The web's own application, armed. At its point the whole web dies, as if the arbiter were killed first."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import os
import signal

from tests.crash import points


def kill_web() -> None:
    """Arbiter and all web processes, which follow it."""
    os.kill(os.getppid(), signal.SIGKILL)
    points.kill_self()


if os.environ["CRASH_POINT"]:
    points.arm(os.environ["CRASH_POINT"], kill_web)

from uws_server.web.entry import app

__all__ = ["app"]
