"""The one table of legal phase changes (UWS 1.1 section 2.1.3; UWS-24 to UWS-27 in tests/items.toml).

Nothing outside this module compares phases to decide what may happen: others ask `allows`, or one of
the named sets below.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """The ten phases of a UWS job."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    ABORTED = "ABORTED"
    HELD = "HELD"
    SUSPENDED = "SUSPENDED"
    UNKNOWN = "UNKNOWN"
    ARCHIVED = "ARCHIVED"

    @property
    def final(self) -> bool:
        """Whether the job's fate is sealed."""
        return self in TERMINAL


_P = Phase
TERMINAL = frozenset({_P.COMPLETED, _P.ERROR, _P.ABORTED, _P.ARCHIVED})
FINISHED = TERMINAL - {_P.ARCHIVED}
ACTIVE = frozenset({_P.PENDING, _P.QUEUED, _P.EXECUTING})  # where WAIT blocks, UWS-45
LISTED = frozenset(Phase) - {_P.ARCHIVED}  # what a job list shows unasked, UWS-33
UNSTARTED = frozenset({_P.PENDING, _P.HELD})  # where PHASE=RUN is legal, UWS-25
ABORTABLE = frozenset(Phase) - TERMINAL  # where PHASE=ABORT changes something, UWS-26

_FATE = {_P.COMPLETED, _P.ERROR, _P.ABORTED}

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    _P.PENDING: frozenset({_P.QUEUED, _P.HELD, _P.ABORTED, _P.ERROR, _P.UNKNOWN}),
    _P.QUEUED: frozenset({_P.EXECUTING, _P.HELD, _P.ABORTED, _P.ERROR, _P.UNKNOWN}),
    _P.HELD: frozenset({_P.QUEUED, _P.EXECUTING, _P.ABORTED, _P.ERROR, _P.UNKNOWN}),
    _P.EXECUTING: frozenset({*_FATE, _P.HELD, _P.SUSPENDED, _P.UNKNOWN}),
    _P.SUSPENDED: frozenset({_P.EXECUTING, _P.ABORTED, _P.ERROR, _P.UNKNOWN}),
    _P.UNKNOWN: frozenset({_P.PENDING, _P.QUEUED, _P.HELD, _P.EXECUTING, _P.SUSPENDED, *_FATE}),
    _P.COMPLETED: frozenset({_P.ARCHIVED}),
    _P.ERROR: frozenset({_P.ARCHIVED}),
    _P.ABORTED: frozenset({_P.ARCHIVED}),
    _P.ARCHIVED: frozenset(),
}
"""Phase → the phases that may follow it.

Two edges go beyond the standard's own chart: QUEUED → HELD, an operator's hold of a waiting job, and
the ones from and to UNKNOWN, which the standard's prose allows between any two.
"""


def allows(before: Phase, after: Phase) -> bool:
    """Whether a job may go from ``before`` to ``after`` in one step."""
    return after in TRANSITIONS[before]
