"""Jobs and events for tests, as hypothesis strategies and as plain makers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from uws_server.domain import events
from uws_server.domain.job import ErrorSummary, Job, Parameter, Result, Upload
from uws_server.domain.runspec import RunSpec
from uws_server.store.base import Capacity

NOW = 1_800_000_000_000
ERROR = ErrorSummary("the node was lost", transient=True)
RESULTS = (Result("result", "results/table.ecsv", 12, "text/plain", "0" * 64),)


def job(**changes: Any) -> Job:
    """A PENDING job of nobody's."""
    values: dict[str, Any] = {
        "id": "0" * 26,
        "service": "lightcurve",
        "owner": "",
        "created": NOW,
        "duration": 60,
        "destruction": NOW + 86_400_000,
    }
    return Job(**{**values, **changes})


def bare_spec(job: Job) -> RunSpec:
    """The run spec of a job that runs nothing in particular."""
    return RunSpec(job.id, job.attempt, job.service, "command", ("true",))


_texts = st.text(max_size=80)
_instants = st.integers(NOW - 10**9, NOW + 10**9)
_attempts = st.integers(1, 3)
_results = st.sampled_from([(), RESULTS])
_logs = st.sampled_from([None, (0, 0), (10, 20)])
_errors = st.builds(ErrorSummary, st.text(min_size=1, max_size=200), st.booleans(), _texts)

parameters = st.lists(
    st.builds(
        Parameter,
        st.text(min_size=1, max_size=20),
        _texts,
        st.none() | st.builds(Upload, st.integers(0, 10**12), st.just("ab" * 32), _texts),
    ),
    max_size=4,
).map(tuple)

wishes = st.one_of(
    st.builds(
        events.RunRequested, st.just("local"), st.integers(100, 3000), st.integers(0, 10**9), st.just(NOW)
    ),
    st.builds(events.AbortRequested),
    st.builds(events.ParametersPut, parameters),
    st.builds(events.DurationChanged, st.integers(0, 2**31 - 1)),
    st.builds(events.DestructionChanged, _instants),
    st.builds(events.DeleteRequested),
    st.builds(events.DestructionDue, _instants | st.just(NOW + 86_400_000)),
)

findings = st.one_of(
    st.builds(events.ClaimLapsed, _attempts),
    st.builds(events.Unstartable, _attempts, _errors),
    st.builds(events.Postponed, _attempts, _texts),
    st.builds(events.Deferred, _attempts, _texts),
    st.builds(events.Launched, _attempts),
    st.builds(events.Reasoned, _attempts, _texts, st.none() | _instants, st.booleans()),
    st.builds(events.WaitedInVain, _attempts, _instants, _errors),
    st.builds(events.Pulled, _attempts, _texts),
    st.builds(events.Started, _attempts, _instants),
    st.builds(events.Succeeded, _attempts, _instants, _results, _logs),
    st.builds(events.Failed, _attempts, _instants, _errors, _results, _logs),
    st.builds(events.TimedOut, _attempts, _instants),
    st.builds(events.AttemptLost, _attempts, _instants, _errors, st.just(2), _results, _logs),
    st.builds(events.Gone, _attempts, _results, _logs),
)

anything = wishes | findings


def parameter_with_content() -> Parameter:
    """A parameter whose content came inline."""
    return Parameter("light_curve", "lc.mjd", Upload(3, "ab" * 32, "text/plain"))


ROOM = Capacity(jobs=100, cpu_milli=10**6, memory_bytes=10**12)
"""A site with room for everything."""
