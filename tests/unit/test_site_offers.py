"""What a site offers: where its capacity comes from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine import Engine
from uws_server.config import load
from uws_server.domain.errors import BadRequest
from uws_server.factory import Services
from uws_server.site_offers import ReportedSite, measured, stated
from uws_server.store.base import Capacity
from uws_server.store.memory import MemoryStore

pytestmark = pytest.mark.covers("3:capacity")


def services(**options: Any) -> Services:
    given = {"redis.url": "redis://nowhere.example", **options}
    made = Services(load(environment={}, options=given))
    made.__dict__["store"] = MemoryStore()
    return made


def test_a_site_has_what_its_worker_said_not_what_the_machine_of_web_has() -> None:
    made = services(**{"sites.far.cpu": 64})
    assert made.sites["far"].capacity.cpu_milli > 10**9  # nothing is refused for what nobody has said
    made.store.report_capacity("far", Capacity(7, 64_000, 2**45))
    assert made.sites["far"].capacity == Capacity(7, 64_000, 2**45)


def test_settings_that_say_all_need_no_worker() -> None:
    made = services(**{"sites.far.jobs": 7, "sites.far.cpu": 64, "sites.far.memory": "2 TiB"})
    assert made.sites["far"].capacity == Capacity(7, 64_000, 2 * 1024**4)


def test_what_is_measured_once_is_stated_from_then_on() -> None:
    settings = load(environment={})
    assert not stated(settings.sites["local"])
    found = measured(settings.sites["local"])
    assert stated(found)
    assert measured(found) == found
    again = load(environment={}, options={"sites.local": found.model_dump(mode="json")})
    assert again.sites["local"] == found


class CountingStore(MemoryStore):
    """Counts how often it is asked for a capacity: with Redis a call each."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def capacity(self, site: str) -> Capacity | None:
        self.asked.append(site)
        return super().capacity(site)


def test_each_site_is_asked_once_for_what_it_has() -> None:
    store = CountingStore()
    engine = Engine(store)
    engine.jobs._sites = {name: ReportedSite(name, frozenset({"command"}), store) for name in ("a", "b", "c")}
    for site in ("a", "b"):
        store.report_capacity(site, Capacity(1, 10, 2**40))
    assert engine.submit().site == "c"
    assert store.asked == ["a", "b", "c"]
    store.report_capacity("c", Capacity(1, 4000, 2**20))
    store.asked.clear()
    with pytest.raises(BadRequest, match="of memory"):
        engine.submit()
    assert store.asked == ["a", "b", "c"]


def test_a_job_waits_for_a_site_that_nobody_has_served_yet() -> None:
    engine = Engine()
    engine.jobs._sites = {"far": ReportedSite("far", frozenset({"command"}), engine.store)}
    assert engine.submit().site == "far"
    engine.store.report_capacity("far", Capacity(1, 10, 2**40))
    with pytest.raises(BadRequest, match="no site here has more than"):
        engine.submit()
