from __future__ import annotations

import itertools

import pytest

from uws_server.domain.phase import (
    ABORTABLE,
    ACTIVE,
    FINISHED,
    LISTED,
    TERMINAL,
    TRANSITIONS,
    UNSTARTED,
    Phase,
    allows,
)

# The table of legal changes, written down a second time so that neither can drift alone.
DRAWN = """
PENDING QUEUED, PENDING HELD, PENDING ABORTED, PENDING ERROR,
QUEUED EXECUTING, QUEUED ABORTED, QUEUED ERROR, QUEUED HELD,
HELD QUEUED, HELD EXECUTING, HELD ABORTED, HELD ERROR,
EXECUTING COMPLETED, EXECUTING ERROR, EXECUTING ABORTED, EXECUTING HELD, EXECUTING SUSPENDED,
SUSPENDED EXECUTING, SUSPENDED ABORTED, SUSPENDED ERROR,
COMPLETED ARCHIVED, ERROR ARCHIVED, ABORTED ARCHIVED
"""


def _drawn() -> set[tuple[Phase, Phase]]:
    edges = {(Phase(a), Phase(b)) for a, b in (edge.split() for edge in DRAWN.replace("\n", " ").split(","))}
    unfinished = set(Phase) - TERMINAL - {Phase.UNKNOWN}
    edges |= {(phase, Phase.UNKNOWN) for phase in unfinished}
    edges |= {(Phase.UNKNOWN, phase) for phase in (unfinished | FINISHED)}
    return edges


@pytest.mark.covers("UWS-24", "3:uws-transitions")
def test_exactly_the_edges_of_the_standard_are_allowed() -> None:
    assert {(a, b) for a, b in itertools.product(Phase, Phase) if allows(a, b)} == _drawn()


@pytest.mark.covers("UWS-24")
def test_execution_is_never_undone_and_an_end_is_final() -> None:
    assert not allows(Phase.EXECUTING, Phase.QUEUED)
    for phase in FINISHED:
        assert TRANSITIONS[phase] == {Phase.ARCHIVED}
    assert not TRANSITIONS[Phase.ARCHIVED]


@pytest.mark.covers("UWS-25", "UWS-26", "UWS-33", "UWS-45")
def test_the_named_sets() -> None:
    assert {Phase.PENDING, Phase.HELD} == UNSTARTED
    assert {Phase.PENDING, Phase.QUEUED, Phase.EXECUTING} == ACTIVE
    assert set(Phase) - LISTED == {Phase.ARCHIVED}
    assert all(allows(phase, Phase.ABORTED) for phase in ABORTABLE)
    assert {phase for phase in Phase if phase.final} == TERMINAL
