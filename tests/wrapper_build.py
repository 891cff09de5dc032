"""Builds the wrapper as the agent's image does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.waiting import PATIENCE

SOURCE = Path(__file__).resolve().parents[1] / "runners" / "wrapper" / "wrapper.c"
COMPILE = ("musl-gcc", "-std=c17", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-s", "-o")


def build_wrapper(program: Path) -> None:
    """Compile the wrapper of this checkout."""
    subprocess.run([*COMPILE, program, SOURCE], check=True, timeout=PATIENCE)
