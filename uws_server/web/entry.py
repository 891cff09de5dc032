"""Where gunicorn finds the application. Patched for greenlets before anything else is imported.

Importing this module opens connections and starts the reader of the event stream, so it is done in each
web process after the fork, and nowhere else.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import gc
import logging
import signal
import socket
import threading
from types import FrameType
from urllib.parse import urlsplit

import gevent
from flask import Flask

from uws_server.config import load
from uws_server.factory import Services, build
from uws_server.service.results import Results
from uws_server.settings import Settings
from uws_server.starting import REFUSALS, refusal
from uws_server.web.app import create_app
from uws_server.web.gunicorn import refuse
from uws_server.web.parts import Bounds, Parts
from uws_server.web.storage import beside_greenlets

_OWN_SCHEMES = ("file:",)  # stores whose links lead back to ourselves
_REDIRECT_BYTES = 1024**2
log = logging.getLogger(__name__)


class Draining:
    """Whether this process is going to end; gunicorn's SIGTERM says so."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._began = False
        self._before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._begin)

    def __call__(self) -> bool:
        return self._began

    def _begin(self, number: int, frame: FrameType | None) -> None:
        self._began = True
        # Everybody who WAITs is answered now. Not here, as locks may be held by what was interrupted.
        gevent.spawn(self._services.waiting.stop)
        if callable(self._before):
            self._before(number, frame)


def _names(settings: Settings) -> frozenset[str]:
    """Of this machine, and what it is told that it is called by. Nobody is asked, as names are to be ours."""
    told = (socket.gethostname(), settings.web.host, urlsplit(settings.own_url).hostname or "")
    return frozenset(name.lower() for name in told if name)


def parts_of(services: Services, settings: Settings) -> Parts:
    """What the settings make of the edge."""
    return Parts(
        jobs=services.jobs,
        results=Results(services.objects),
        door=services.door,
        catalog=services.catalog,
        store=services.store,
        objects=services.objects,
        links=services.links,
        base_url=settings.web.base_url,
        names=_names(settings),
        bounds=Bounds(
            body_bytes=settings.limits.body,
            upload_bytes=settings.limits.upload,
            patience=settings.web.body_seconds,
            wait_seconds=settings.web.wait_seconds,
        ),
        redirect_bytes=0 if settings.objects_url.startswith(_OWN_SCHEMES) else _REDIRECT_BYTES,
        authenticator=services.authenticator,
        draining=Draining(services),
        own_machine=settings.own_machine,
        operator_port=settings.operator.port,
    )


def application() -> Flask:
    """The application of this process, with its reader of the event stream running."""
    settings = load()
    try:
        services = build(settings)
        services.aside = beside_greenlets
        app = create_app(parts_of(services, settings))
    except REFUSALS as error:
        sentences, code = refusal(error)
        for sentence in sentences.splitlines():
            log.error("%s", sentence)
        refuse(code)
    threading.Thread(target=services.waiting.run, name="events", daemon=True).start()
    # What is there now stays: looking through it for garbage every few requests is a tenth of their cost.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return app


app = application()
