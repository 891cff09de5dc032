"""The page that a newcomer reads first tells of every room there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("uws_server", "runners", "job_templates", "uws_client")
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def _rooms() -> set[str]:
    """Packages, and what lies beside them: `runners`, `uws_server/web`, `uws_server/cli.py`."""
    beside = {path for path in (ROOT / "uws_server").iterdir() if not path.name.startswith("_")}
    server = {path.name for path in beside if path.suffix == ".py" or (path / "__init__.py").exists()}
    return server | set(PACKAGES)


def test_every_room_has_a_row_that_says_what_belongs_there() -> None:
    table = PAGE[PAGE.index("| Room |") :]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    told = {name.removeprefix("uws_server/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert _rooms() - told == {"uws_server"}, "no row says what belongs there"
    assert told - _rooms() == set(), "there is no such room"
