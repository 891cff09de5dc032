"""A whole server for each module of real clients."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plain import Client
from tests.clients.recorder import Recorder
from tests.up_process import running_up

HERE = Path(__file__).parent
PROGRAM = HERE / "catalogue_query.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """`uws-server up` with the shipped services and ``variables``."""
    directory = tmp_path_factory.mktemp("clients")
    (directory / "templates").mkdir()
    template = (HERE / "templates" / "variables.yaml").read_text().replace("CATALOGUE_QUERY", str(PROGRAM))
    (directory / "templates" / "variables.yaml").write_text(template)
    environment = {
        "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(directory / "templates")]),
        # A job sees nothing of this machine that is not named.
        "UWS_SITES": json.dumps({"local": {"read_only": [str(PROGRAM)]}}),
    }
    with running_up(directory / "data", environment=environment) as up:
        yield Client(up.url)


@pytest.fixture
def recorder(server: Client) -> Iterator[Recorder]:
    """The same server at another port, where all that a client sends is kept."""
    with Recorder(server.base) as between:
        yield between


@pytest.fixture
def close_what_is_left() -> Iterator[None]:
    """Close the connections that a client forgets, before another test is blamed for them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
