"""Metrics: named as Prometheus wants it, described as they are, and counted by event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from scripts.describe_metrics import PATH, counted, document
from tests.jobs import NOW, job
from uws_server import metrics
from uws_server.domain.phase import Phase
from uws_server.object_calls import CountedObjects
from uws_server.storage.base import Exists, NotStored, TooLong
from uws_server.storage.links import Links
from uws_server.storage.memory import MemoryStore
from uws_server.store.base import Load

pytestmark = pytest.mark.covers("4:metrics")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_the_page_lists_every_metric() -> None:
    text = PATH.read_text()
    assert text == document(text), "run python -m scripts.describe_metrics"
    assert len(re.findall(r"^\| `uws_", text, re.MULTILINE)) == len(dict(counted())) > 10


def test_names_begin_with_ours_and_end_with_their_unit() -> None:
    for name, one in counted():
        assert re.fullmatch(r"uws_[a-z_]+", name)
        (family,) = one.describe()
        assert name.endswith("_total") == (family.type == "counter")
        assert name.endswith("_seconds") >= (family.type == "histogram")
        assert re.fullmatch(r"[A-Z1].*\.", family.documentation)
    list(text_string_to_metric_families(metrics.written().decode()))


def test_a_change_of_phase_counts_once_and_with_it_how_long_the_start_took() -> None:
    labels = {"service": "counted", "site": "there"}
    queued = job(service="counted", site="there", phase=Phase.QUEUED, queued=NOW, attempt=1)
    runs = replace(queued, phase=Phase.EXECUTING, started=NOW + 1500, attempt_started=NOW + 1500)
    done = replace(runs, phase=Phase.COMPLETED, ended=NOW + 9000)
    metrics.job_changed(None, queued, NOW, watched=False)
    metrics.job_changed(queued, replace(queued, reason="waits"), NOW, watched=False)
    metrics.job_changed(queued, runs, NOW + 1750, watched=True)
    metrics.job_changed(runs, done, NOW + 9500, watched=True)
    for phase in ("QUEUED", "EXECUTING", "COMPLETED"):
        assert value("uws_job_phase_changes_total", phase=phase, **labels) == 1
    assert value("uws_job_start_seconds_sum", **labels) == 1.5
    assert value("uws_job_start_seconds_count", **labels) == 1
    assert value("uws_watcher_delay_seconds_sum", site="there", phase="EXECUTING") == 0.25
    assert value("uws_watcher_delay_seconds_sum", site="there", phase="COMPLETED") == 0.5
    assert value("uws_attempts_lost_total", **labels) == 0
    metrics.job_changed(runs, replace(runs, attempt=2), NOW, watched=True)
    assert value("uws_attempts_lost_total", **labels) == 1


def test_who_has_no_lease_tells_nothing_of_the_queue() -> None:
    metrics.lease_asked("reconciler", held=True)
    metrics.queue_seen("here", Load(jobs=7, owners=2, oldest_seconds=30, attempts=3))
    assert value("uws_queue_jobs", site="here") == 7
    assert value("uws_lease_held", lease="reconciler") == 1
    metrics.lease_asked("reconciler", held=False)
    assert REGISTRY.get_sample_value("uws_queue_jobs", {"site": "here"}) is None
    assert value("uws_lease_held", lease="reconciler") == 0


def test_each_call_of_the_object_store_is_counted_by_how_it_ended() -> None:
    name = "uws_object_store_call_seconds_count"
    ends = [("put", "ok"), ("put", "exists"), ("put", "too_long"), ("put", "failed"), ("list", "ok")]
    ends += [("read", "ok"), ("read", "absent"), ("head", "absent"), ("delete", "ok")]
    before = [value(name, operation=operation, outcome=outcome) for operation, outcome in ends]
    objects = CountedObjects(MemoryStore(Links(b"s" * 16)))

    def broken_off() -> Iterator[bytes]:
        yield b"a"
        raise LookupError

    objects.put("a/b", b"12")
    with pytest.raises(Exists):
        objects.put("a/b", b"34", create=True)
    with pytest.raises(TooLong):
        objects.put("a/c", b"34", 1)
    with pytest.raises(LookupError):
        objects.put("a/c", broken_off())
    assert [stored.key for stored in objects.list("a")] == ["a/b"]
    assert b"".join(objects.read("a/b")) == b"12"
    with pytest.raises(NotStored):
        objects.read("a/c")
    with pytest.raises(NotStored):
        objects.head("a/c")
    objects.delete("a")
    after = [value(name, operation=operation, outcome=outcome) for operation, outcome in ends]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1] * len(ends)
