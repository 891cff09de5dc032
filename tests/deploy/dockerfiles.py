"""What the Dockerfiles of deploy/images say, for tests that need the same without building them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def dockerfile(image: str) -> str:
    return (ROOT / "deploy" / "images" / image / "Dockerfile").read_text(encoding="utf-8")


def copy_code(image: str, target: Path) -> None:
    """Copy what an image's file copies of our packages; these become children of ``target``."""
    for words in re.findall(r"^COPY ([a-z].*)$", dockerfile(image), re.MULTILINE):
        *patterns, place = words.split()
        ours = re.fullmatch(r"/(?:code|opt/uws)/(.+)", place)
        if ours is None:  # the wrapper, the lock
            continue
        directory = target / ours[1]
        for source in (path for pattern in patterns for path in ROOT.glob(pattern)):
            if source.is_dir():
                shutil.copytree(source, directory, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                directory.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, directory)
