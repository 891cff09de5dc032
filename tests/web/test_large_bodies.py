"""While something large is read for one request, the same process goes on answering others."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping

import pytest

from job_templates.notebook_excerpt import excerpt
from job_templates.notebook_parameters import read_parameters
from tests.waiting import PATIENCE
from uws_server.domain.errors import TooLarge
from uws_server.service.jobs import RequestLimits
from uws_server.service.notebooks import readable
from uws_server.web.incoming.documents import document_of
from uws_server.web.incoming.said import Said
from uws_server.web.incoming.wishes import json_parameters, wish

# What happened, in order, in a process of greenlets: "turn" whenever another one had its turn.
_ORDER = """
from gevent import monkey
monkey.patch_all()
import gevent, json, sys

happened = []

def other():
    while True:
        happened.append("turn")
        gevent.sleep(0.001)

gevent.spawn(other)
gevent.sleep(0.01)
{work}
happened.append("read")
print(json.dumps(happened))
"""

_NOTEBOOK = """
from uws_server.service.notebooks import readable
head = b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": "", "outputs": ['
body = head + b"1.2345678," * 1_000_000 + b"0]}]}"

def pieces():
    for at in range(0, len(body), 65536):
        yield body[at : at + 65536]
    happened.append("sent")

with gevent.Timeout(60):
    readable(pieces())
"""

_DOCUMENT = """
from uws_server.service.jobs import RequestLimits
from uws_server.web.incoming.documents import document_of
body = b'{"parameters": {"settings": [' + b"1," * 400_000 + b"0]}}"
happened.append("sent")
document_of(body, RequestLimits())
"""


@pytest.mark.covers("3:bad-json-bomb")
@pytest.mark.parametrize("work", [_NOTEBOOK, _DOCUMENT])
def test_others_have_their_turn(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _ORDER.replace("{work}", work)],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    happened = json.loads(done.stdout)
    between = happened[happened.index("sent") : happened.index("read")]
    assert between.count("turn") >= 5


@pytest.mark.covers("3:bad-json-bomb")
@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {f"n{number}": [] for number in range(1001)}},
        {f"n{number}": [] for number in range(1001)},
    ],
)
def test_too_many_names_are_refused_before_each_is_looked_at(body: dict[str, object]) -> None:
    with pytest.raises(TooLarge, match="more than 1000 parameters"):
        document_of(json.dumps(body).encode(), RequestLimits())


@pytest.mark.covers("3:bad-json-bomb")
def test_too_many_values_are_refused_before_each_is_made_a_parameter() -> None:
    document = {"parameters": {"tile": ["x"] * 1_000_000}}
    for read in (
        lambda: wish(Said(document=document), lambda _: True, 1000),
        lambda: json_parameters(document, lambda _: True, 1000),
    ):
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge, match="more than 1000 parameters"):
                read()
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


def notebook(cell: Mapping[str, object] | None, padding: int = 0, **metadata: object) -> bytes:
    cells = [{"cell_type": "markdown", "source": "x" * padding}, *([cell] if cell else [])]
    return json.dumps({"nbformat": 4, "metadata": metadata, "cells": cells}).encode()


CELL = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["n = 3\n", "name: str"]}


@pytest.mark.parametrize(
    "content",
    [
        notebook(CELL),
        notebook(None),
        notebook({**CELL, "cell_type": "raw"}),
        notebook(CELL, kernelspec={"name": "ir", "language": "R"}),
        notebook(CELL, kernelspec={"name": "python3"}, language_info={"name": "python", "version": "3"}),
        notebook(CELL, kernelspec={"name": 5}, language_info=[]),
        notebook({**CELL, "source": "?"}),
    ],
)
def test_an_excerpt_says_of_parameters_what_the_whole_says(content: bytes) -> None:
    def said(text: bytes) -> object:
        try:
            return read_parameters(text)
        except ValueError as error:
            return str(error)

    assert said(excerpt(content)) == said(content)


@pytest.mark.covers("3:bad-not-a-notebook")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 400_000, "nested too deeply"),
        (b"{" + b" " * 400_000, "not valid JSON"),
        (b"[" + b"0," * 400_000 + b"0]", "not a Jupyter notebook"),
        (notebook({**CELL, "source": "#" * 400_000}), "the parameters cell has 400000 characters"),
        (b"\xff" * 400_000, "not UTF-8"),
        (b'{"nbformat": 3, "x": "' + b"x" * 400_000 + b'"}', "format 3"),
    ],
)
def test_a_large_file_that_is_no_notebook(content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        readable([content[:100_000], content[100_000:]])


def test_a_large_notebook_comes_as_its_excerpt_and_a_small_one_as_it_is() -> None:
    large = notebook(CELL, 400_000)
    assert readable([large[:100_000], large[100_000:]]) == excerpt(large)
    small = notebook(CELL)
    assert readable([small]) == small
