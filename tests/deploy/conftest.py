"""The images of deploy/images, built once for all tests of a run that ask for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.programs import install_debian_packages
from tests.deploy import stand_in
from tests.deploy.building import PACKAGES, build, tell
from tests.deploy.docker_engine import Engine, running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A Docker engine that has nothing but a stand-in for the base."""
    install_debian_packages({"/usr/sbin/dockerd": "docker.io", "debootstrap": "debootstrap"})
    with running() as engine:
        tell(request, stand_in.give(engine))
        yield engine


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from: the same for all builds, whoever edits meanwhile."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in (*PACKAGES, "deploy", "scripts"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / ".dockerignore", copy)
    return copy


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, engine: Engine, checkout: Path) -> Callable[[str], str]:
    """Builds an image when it is first asked for; gives its name."""
    names: dict[str, str] = {}

    def name_of(image: str) -> str:
        if image not in names:
            size = build(checkout, engine, image, "test")
            tell(request, size)
            names[image] = f"uws-{image}:test"
        return names[image]

    return name_of
