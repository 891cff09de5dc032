"""What `uws-server check` says: sentences, each with how well a promise is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Grade(IntEnum):
    """How well a promise is kept."""

    GOOD = 0
    WEAK = 1  # it works, and promises less; or it could not be looked at
    BROKEN = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one subject."""

    subject: str
    sentence: str
    grade: Grade = Grade.GOOD
