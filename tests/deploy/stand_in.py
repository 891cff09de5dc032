"""A stand-in for the base of our images, for machines that have no registry to pull it from.

The Dockerfiles name `python:3.13-slim`, which is Debian 13 with a Python built from source in ``/usr/local``.
The stand-in is Debian 13 with Debian's own Python 3.13: same system libraries, same wheels, another place.
Like the original, it keeps no compiled modules of Python's library. It has this machine's certificates and
index of Python packages, which the original has no need of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.node import run
from tests.cluster.programs import CACHE, locked, say
from tests.deploy.docker_engine import Engine

NAME = "python:3.13-slim"
_RELEASE, _PYTHON = "trixie", "3.13"
_PACKAGES = "ca-certificates,python3,python3-venv"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def give(engine: Engine) -> str:
    """Put the stand-in into an engine under the name of the real one; a sentence that says what it is."""
    settings = {"PIP_CERT": str(_CERTIFICATES)}
    if index := os.environ.get("PIP_INDEX_URL"):
        settings["PIP_INDEX_URL"] = index
    changes = [word for key, value in settings.items() for word in ("--change", f"ENV {key}={value}")]
    engine.docker("import", *changes, _archive(), NAME, seconds=120)
    return f"{NAME} is a stand-in: Debian {_RELEASE} with its Python {_PYTHON}, made by debootstrap"


def _archive() -> Path:
    """Made once by debootstrap (40 s), and kept."""
    archive = CACHE / f"stand-in-{_RELEASE}.tar"
    with locked(CACHE / "stand-in.lock"):
        if not archive.exists():
            say(f"making a stand-in for {NAME} (debootstrap)")
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                root, half = Path(work, "root"), Path(work, "root.tar")
                run(
                    *("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _RELEASE, root),
                    seconds=900,
                )
                shutil.copy(_CERTIFICATES, root / str(_CERTIFICATES).lstrip("/"))
                for left in ("var/cache/apt", "var/lib/apt/lists", "var/log", "dev", "proc", "sys"):
                    shutil.rmtree(root / left, ignore_errors=True)
                    (root / left).mkdir(parents=True)
                for compiled in root.glob(f"usr/lib/python{_PYTHON}/**/__pycache__"):
                    shutil.rmtree(compiled)
                subprocess.run(["tar", "-C", root, "-cf", half, "."], check=True, timeout=120)
                half.rename(archive)
    return archive
