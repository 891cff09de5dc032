"""Clients that stay connected do not hold up the end of the server."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.up_process import running_up
from tests.waiting import PATIENCE


@pytest.mark.covers("3:up")
def test_open_connections_do_not_delay_the_end(tmp_path: Path) -> None:
    with running_up(tmp_path / "data", environment={"UWS_WEB__STOP_SECONDS": "60"}) as up:
        parts = urlsplit(up.url)
        host, port = str(parts.hostname), parts.port
        used, fresh = (http.client.HTTPConnection(host, port, timeout=PATIENCE) for _ in range(2))
        used.request("GET", "/services")
        assert used.getresponse().read()
        fresh.connect()
        began = time.monotonic()
        assert up.end() == 0
        # Held up, it would be killed after 15 s.
        assert time.monotonic() - began < 15
        used.close()
        fresh.close()
