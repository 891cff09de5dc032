"""The service that runs any notebook: the notebook's own parameters, their case kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_templates import catalog
from job_templates.render import render
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Job, Parameter, Upload

SOURCE = """\
phase: float = 0.5
N = 10
n = "x"
wait = True
last: list = []
opts = {}
free = None
"""
UPLOAD = Upload(10, "0" * 64, "application/x-ipynb+json")
BROUGHT = Parameter("notebook", "my.ipynb", UPLOAD)
TEMPLATE = catalog.load().get("notebook")


def notebook(source: str | None = SOURCE, language: str = "python") -> bytes:
    tags = [] if source is None else ["parameters"]
    cells = [{"cell_type": "code", "metadata": {"tags": tags}, "source": source or ""}]
    metadata = {"kernelspec": {"name": language, "language": language}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}).encode()


def own(*pairs: tuple[str, str], content: bytes | None = None) -> dict[str, Any]:
    parameters = [BROUGHT, *(Parameter(TEMPLATE.canonical(name), value) for name, value in pairs)]
    values: dict[str, Any] = TEMPLATE.check(parameters, lambda _: content or notebook())["parameters"]
    return values


@pytest.mark.covers("3:names-notebook", "3:names-n-and-N", "3:template-notebook")
def test_phase_and_two_cases_of_n_reach_the_notebook() -> None:
    values = own(("p.phase", "0.25"), ("P.N", "3"), ("p.n", "3"), ("p.wait", "False"), ("p.last", "[1]"))
    assert values == {"phase": 0.25, "N": 3, "n": "3", "wait": False, "last": [1]}


@pytest.mark.covers("3:names-notebook")
def test_one_json_object_does_the_same() -> None:
    assert own(("parameters", '{"phase": 1, "N": 3, "n": "3"}')) == {"phase": 1.0, "N": 3, "n": "3"}
    assert own(("PARAMETERS", '{"N": 3}'), ("p.n", "y")) == {"N": 3, "n": "y"}
    with pytest.raises(BadRequest, match=r"parameter p\.N is in 'parameters' too; say it once"):
        own(("parameters", '{"N": 3}'), ("p.N", "4"))


@pytest.mark.covers("3:bad-parameter", "3:template-notebook")
@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.M", "1", "the notebook has no parameter 'M'; it accepts phase, N, n, wait, last, opts, free"),
        ("p.phas", "1", "the notebook has no parameter 'phas'; it accepts .*; did you mean phase\\?"),
        ("p.N", "many", "parameter p.N is 'many'; the notebook takes a whole number there"),
        ("p.N", "1.5", "parameter p.N is '1.5'; the notebook takes a whole number there"),
        ("p.N", "true", "parameter p.N is 'true'; the notebook takes a whole number there"),
        ("p.phase", "NaN", "parameter p.phase is 'NaN'; the notebook takes a number there"),
        ("p.phase", "1" + "0" * 400, "parameter p.phase is '10+'…; the notebook takes a number there"),
        ("p.wait", "yes", "parameter p.wait is 'yes'; the notebook takes true or false there"),
        ("p.last", "1,2", "parameter p.last is '1,2'; the notebook takes a JSON list there"),
        ("parameters", '{"N": "3"}', "parameter p.N is '3'; the notebook takes a whole number there"),
        ("parameters", '{"opts": []}', r"parameter p.opts is '\[\]'; the notebook takes a JSON object there"),
        ("parameters", '{"a b": 1}', "parameter 'p.a b' names no variable"),
        ("p.", "1", "parameter 'p.' names no variable; a notebook's own parameters are p.NAME"),
        ("p.__x.y", "1", "parameter 'p.__x.y' names no variable"),
        ("M", "1", "service notebook has no parameter 'M'; it accepts notebook, .*, p.NAME"),
    ],
)
def test_what_a_notebook_does_not_take_is_refused_with_what_it_takes(
    name: str, text: str, sentence: str
) -> None:
    with pytest.raises(BadRequest, match=f"^{sentence}"):
        own((name, text))


@pytest.mark.covers("3:bad-not-a-notebook")
@pytest.mark.parametrize("content", [b"\x00\xff", b"{}", b"[" * 100_000, notebook("x = = 1")])
def test_what_is_no_notebook_is_refused_at_creation(content: bytes) -> None:
    with pytest.raises(BadRequest, match="parameter notebook is no notebook that can be run: "):
        own(content=content)


def test_a_notebook_without_parameters_takes_none_and_one_in_another_language_any() -> None:
    with pytest.raises(BadRequest, match="it has no cell tagged 'parameters' and takes none"):
        own(("p.N", "1"), content=notebook(None))
    values = own(("p.N", "1"), ("p.s", "a"), ("p.z", "007"), content=notebook("N <- 2", "R"))
    assert values == {"N": 1, "s": "a", "z": "007"}


def test_a_value_that_the_notebook_lacks_is_asked_for() -> None:
    content = notebook("radius: float\nname: str\n")
    with pytest.raises(BadRequest, match=r"the notebook needs p\.name: text"):
        own(("p.radius", "1"), content=content)


def test_null_is_taken_where_the_notebook_says_so() -> None:
    content = notebook("a: int | None = 3\nb: int = 3\n")
    assert own(("p.a", "None"), content=content) == {"a": None}
    with pytest.raises(BadRequest, match=r"p\.b is 'None'; the notebook takes a whole number there"):
        own(("p.b", "None"), content=content)


@pytest.mark.covers("3:names-notebook")
def test_a_file_can_be_sent_for_a_parameter_of_the_notebook() -> None:
    content = notebook("curve: str = ''\n")
    parameters = [BROUGHT, Parameter("p.curve", "../lc 1.dat", Upload(5, "1" * 64, "text/plain"))]
    job = Job("0" * 26, "notebook", "", 0, parameters=tuple(parameters), attempt=1)
    spec = render(TEMPLATE, job, lambda _: content)
    assert spec.parameters == {"curve": "{inputs}/p.curve/lc_1.dat"}
    assert [(file.path, file.source) for file in spec.inputs] == [
        ("notebook.ipynb", "upload:notebook"),
        ("p.curve/lc_1.dat", "upload:p.curve"),
    ]


def test_without_the_notebook_at_hand_values_stay_text_and_the_command_says_so() -> None:
    url = Parameter("notebook", "https://host/a.ipynb")
    given = (url, Parameter("p.N", "3"), Parameter("parameters", '{"n": 1}'), Parameter("kernel", "ir"))
    spec = render(
        TEMPLATE, Job("0" * 26, "notebook", "", 0, parameters=given, attempt=1), lambda _: notebook()
    )
    assert spec.parameters == {"N": "3", "n": 1}
    assert spec.command[-4:] == ("--kernel", "ir", "--text", "N")
    stored = (BROUGHT, Parameter("p.N", "3"))
    spec = render(TEMPLATE, Job("0" * 26, "notebook", "", 0, parameters=stored, attempt=1))
    assert (spec.parameters, spec.command[-2:]) == ({"N": "3"}, ("--text", "N"))


_ODD = [
    "",
    " ",
    "nan",
    "-inf",
    "Infinity",
    "\u22125",
    "1e400",
    "1.5 d",
    "1_000",
    "0x10",
    "1,5",
    "\uff11",
    "[1]",
    "yes",
]


@pytest.mark.covers("3:bad-parameter")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("p.phase", "p.N", "p.wait", "p.opts") for text in _ODD),
        ("p.wait", "TRUE"),
        ("p.wait", "2"),
        ("p.N", "3.0"),
        ("p.N", "true"),
        ("p.phase", "True"),
    ],
)
def test_what_looks_like_a_value_of_the_type_but_is_none_is_refused(name: str, text: str) -> None:
    with pytest.raises(BadRequest, match=rf"^parameter {name} is .*; the notebook takes "):
        own((name, text))


_NAMES = st.sampled_from(
    ["p.phase", "p.N", "p.n", "P.wait", "p.last", "p.opts", "p.free", "parameters", "p.ñ"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["N", "n", "phase", "x"]), inner),
    max_leaves=5,
)


@pytest.mark.covers("3:bad-parameter")
@given(st.lists(st.tuples(_NAMES, st.text() | _JSON.map(json.dumps)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_typed_or_refused(pairs: list[tuple[str, str]]) -> None:
    kinds = {"phase": float, "N": int, "n": str, "wait": bool, "last": list, "opts": dict, "free": object}
    sentence, values = "", {}
    try:
        values = own(*pairs)
    except BadRequest as refused:
        sentence = str(refused)
    assert sentence.isprintable()
    assert all(isinstance(value, kinds[name]) for name, value in values.items())
    assert type(values.get("N", 0)) is int
