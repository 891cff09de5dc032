"""A job that no site could ever run is refused when it is made: it would hold up its owner's line always."""

from __future__ import annotations

import pytest

from tests.web.world import KINDS, Client, World
from uws_server.site_offers import SiteOffer
from uws_server.store.base import Capacity

GIB = 1024**3
TOO_BIG = [
    ({"CPU": "2.5"}, "the job asks for 2.5 cores (CPU) and no site here has more than 2"),
    (
        {"MEMORY": "4GiB"},
        "the job asks for 4 GiB of memory (MEMORY) and no site here has more than 3 GiB for it",
    ),
    ({"GPU": "1"}, "the job asks for 1 GPU and no site here has any"),
]


@pytest.fixture
def world() -> World:
    """The second site has more of everything, but not enough for all that the template permits."""
    few, more = Capacity(10, 1000, GIB), Capacity(10, 2000, 3 * GIB + 5)
    return World(sites={"few": SiteOffer("few", KINDS, few), "more": SiteOffer("more", KINDS, more)})


def rows(client: Client) -> int:
    return len(client.json("/stack/async")["jobs"])


@pytest.mark.covers("3:bad-parameter")
@pytest.mark.parametrize(("ask", "sentence"), TOO_BIG)
@pytest.mark.parametrize("phase", [{}, {"PHASE": "RUN"}])
def test_more_than_any_site_has(
    client: Client, ask: dict[str, str], sentence: str, phase: dict[str, str]
) -> None:
    refused = client.post("/stack/async", data=ask | phase)
    assert (refused.status_code, refused.text.strip()) == (400, sentence)
    assert rows(client) == 0


@pytest.mark.parametrize(("ask", "sentence"), TOO_BIG)
def test_more_than_any_site_has_asked_for_later(client: Client, ask: dict[str, str], sentence: str) -> None:
    path = client.create()
    refused = client.post(f"{path}/parameters", data=ask)
    assert (refused.status_code, refused.text.strip()) == (400, sentence)
    assert [one["name"] for one in client.json(path)["parameters"]] == []


def test_the_first_site_that_has_room_gets_the_job(client: Client, world: World) -> None:
    for ask, site in (({"MEMORY": "1GiB"}, "few"), ({}, "more"), ({"CPU": "2"}, "more")):
        path = client.create(data=ask | {"PHASE": "RUN"})
        job = world.store.get(path.rpartition("/")[2])
        assert job is not None
        assert job.site == site


def test_a_job_that_asks_for_a_gpu_goes_where_there_are_some() -> None:
    without, some = Capacity(10, 4000, 16 * GIB), Capacity(10, 4000, 16 * GIB, gpu=2)
    sites = {"without": SiteOffer("without", KINDS, without), "some": SiteOffer("some", KINDS, some)}
    world = World(sites=sites)
    client = world.client()
    path = client.create(data={"GPU": "2", "PHASE": "RUN"})
    job = world.store.get(path.rpartition("/")[2])
    assert job is not None
    assert job.site == "some"
    refused = client.post("/stack/async", data={"GPU": "3"})
    said = "the job asks for 3 GPU and no site here has more than 2"
    assert (refused.status_code, refused.text.strip()) == (400, said)
