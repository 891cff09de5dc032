"""The web's own gunicorn settings, with an application that is armed first."""

from __future__ import annotations

from uws_server.web.gunicorn import *  # noqa: F403

wsgi_app = "tests.crash.entry:app"
