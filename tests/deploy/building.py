"""Building the images of deploy/images as anybody would."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.docker_engine import Engine

PACKAGES = ("job_templates", "runners", "uws_client", "uws_server")
"""What of the checkout is ours and goes into images."""


def build(checkout: Path, engine: Engine, image: str, tag: str, *options: str) -> str:
    """Build an image as anybody would; what the script says of it in the end."""
    done = subprocess.run(
        [checkout / "scripts" / "images", "--tag", tag, image, "--", "--network", "host", *options],
        env=engine.environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    size = done.stdout.splitlines()[-1]
    assert re.fullmatch(rf"images: uws-{image}:{tag}: \d+ MB", size), size
    return size


def tell(request: pytest.FixtureRequest, sentence: str) -> None:
    """Say something to whoever reads the run's output, also when all is well."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{sentence}", flush=True)
