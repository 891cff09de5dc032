"""Template files: what is wrong is told all at once, each with file, line and the nearest valid word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job_templates import catalog, yaml_lines
from job_templates.parameter_type import ParameterType
from job_templates.schema import Definition, Example, OutputType, ResourceLimits
from uws_server.domain.errors import NotFound

GOOD = """\
name: stars
title: Count stars
kind: command
command: ["{python}", "-c", "pass", "{value:field}"]
parameters:
  - name: field
    type: string
outputs:
  - id: result
    glob: "*.csv"
    media_type: text/csv
"""


def write(folder: Path, text: str, name: str = "stars.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    return [problem.removeprefix(f"{path}:") for problem in catalog.check([folder], shipped=False)]


@pytest.mark.covers("3:templates-check", "3:template-notebook", "3:template-lightcurve", "3:template-script")
def test_the_shipped_templates_are_without_mistakes() -> None:
    assert catalog.check() == []
    assert [template.name for template in catalog.load()] == ["container", "lightcurve", "notebook", "script"]


def test_the_examples_in_the_docs_are_templates(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "templates.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in docs.split("```yaml\n")[1:]]
    source = docs.partition("```python\n")[2].partition("```")[0]
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    (tmp_path / "fold.ipynb").write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": [cell]}))
    for number, example in enumerate(examples):
        write(tmp_path, example, f"{number}.yaml")
    assert catalog.check([tmp_path], shipped=False) == []
    services = catalog.load([tmp_path], shipped=False)
    assert [template.name for template in services] == ["cutout", "fold"]
    assert services.get("cutout").resources.cpu.ceiling == 4000


def test_every_key_that_a_template_may_have_is_in_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "templates.md").read_text(encoding="utf-8")
    for model in (Definition, ParameterType, OutputType, ResourceLimits, Example):
        for key in model.model_fields:
            assert re.search(rf"`{key}`|^ *(- )?{key}:|`{key}: ", docs, re.MULTILINE), key


@pytest.mark.covers("3:templates-yaml", "3:templates-outputs")
def test_a_yaml_file_makes_a_service(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    services = catalog.load([tmp_path])
    assert [template.name for template in services] == [
        "container",
        "lightcurve",
        "notebook",
        "script",
        "stars",
    ]
    assert "stars" in services
    assert len(services) == 5
    stars = services.get("stars")
    assert (stars.kind, stars.sync_result) == ("command", "result")
    assert stars.outputs[0].media_type == "text/csv"
    with pytest.raises(NotFound, match=r"there is no service 'star'; did you mean stars\?"):
        services.get("star")


def test_the_digest_changes_with_the_text_and_with_the_notebook(tmp_path: Path) -> None:
    source = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    write(tmp_path, "name: nb\ntitle: T\nkind: notebook\nnotebook: a.ipynb\n", "nb.yaml")
    notebook = write(tmp_path, json.dumps(source), "a.ipynb")
    first = catalog.load([tmp_path]).get("nb")
    notebook.write_text(json.dumps(source, indent=1))
    second = catalog.load([tmp_path]).get("nb")
    write(tmp_path, "name: nb\ntitle: U\nkind: notebook\nnotebook: a.ipynb\n", "nb.yaml")
    third = catalog.load([tmp_path]).get("nb")
    assert len({first.digest, second.digest, third.digest}) == 3
    assert second.content == notebook.read_text()


def test_an_operators_template_takes_the_place_of_a_shipped_one_but_not_of_another(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("name: stars", "name: script"))
    assert catalog.load([tmp_path]).get("script").title == "Count stars"
    write(tmp_path, GOOD.replace("name: stars", "name: script"), "again.yml")
    (problem,) = catalog.check([tmp_path])
    assert "service 'script' is made by" in problem


@pytest.mark.covers("3:templates-check", "3:names-collide")
@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("title:", "titel:", ["1: 'title' is missing", "2: unknown key 'titel'; did you mean title?"]),
        (
            "    type: string",
            "    typ: string",
            [
                "6: 'parameters.field.type' is missing",
                "7: unknown key 'parameters.field.typ'; did you mean type?",
            ],
        ),
        (
            "type: string",
            "type: float",
            ["7: parameters.field.type: 'float' is none of string, integer, number, boolean, …"],
        ),
        (
            "kind: command",
            "kind: script",
            ["3: kind: 'script' is none of notebook, container or command"],
        ),
        (
            "name: stars",
            "name: Stars!",
            ["1: name: 'Stars!' is no service name: a lower-case letter, then …"],
        ),
        (
            "name: stars",
            "name: services",
            ["1: a service cannot be named 'services': the server uses that path …"],
        ),
        (
            "name: field",
            "name: Phase",
            ["4: {value:field} names no parameter; there is Phase", "6: parameter 'Phase' is a control …"],
        ),
        (
            "name: field",
            "name: cpu",
            ["4: {value:field} names no …", "6: parameter 'cpu' is a resource word that …"],
        ),
        (
            "    type: string\n",
            "    type: string\n  - {name: Field, type: string}\n",
            ["8: parameters 'field' and 'Field' differ in case only (DALI-06)"],
        ),
        ("{value:field}", "{value:feild}", ["4: {value:feild} names no parameter; did you mean field?"]),
        (
            "kind: command\n",
            'kind: command\nenvironment:\n  FIELD: "{value:feild}"\n',
            ["5: {value:feild} names no parameter; did you mean field?"],
        ),
        ("{python}", "{pyton}", ["4: {pyton} is nothing that a runner replaces; did you mean {python}?"]),
        ("id: result", "id: table", ["9: the only output of a service has the id 'result'"]),
        ("id: result", "id: stdout", ["9: outputs.stdout.id: the result id 'stdout' is the server's own"]),
        (
            '"*.csv"',
            '"../*.csv"',
            ["10: outputs.result.glob: the glob '../*.csv' leaves the outputs directory"],
        ),
        (
            "type: string",
            "type: integer\n    default: many",
            ["8: parameter field is 'many'; it accepts a whole …"],
        ),
        (
            "type: string",
            "type: number\n    min: 3\n    max: 1",
            ["8: parameters.field.min: 'min' is above 'max', 1"],
        ),
        (
            "type: string",
            'type: string\n    pattern: "["',
            ["8: parameters.field.pattern: '[' is no regular expression: unterminated …"],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  cpu: {default: 9, max: 4}\n",
            ["5: resources.cpu.default: 'default' is above 'max'"],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  memory: {default: much}\n",
            ["5: resources.memory.default: 'much' is not a size such as 4GiB, 500MB or a number of …"],
        ),
        ("kind: command\n", "kind: container\n", ["3: kind: a template of kind container needs 'image'"]),
        ("kind: command\n", "kind: command\nresult: tabel\n", ["4: 'tabel' is no output; there is result"]),
        (
            "kind: command\n",
            "kind: command\nexamples:\n  - title: One\n    parameters: {feild: M31}\n",
            ["5: the example does not work: service stars has no parameter 'feild'; it accepts …"],
        ),
        (
            "title: Count stars",
            "title: [",
            ["4: expected ',' or ']', but got ':' (while parsing a flow sequence, line 2)"],
        ),
        ("title: Count stars", "title: 12", ["2: title: 12 instead of text; text that looks like …"]),
        ("title: Count stars", "title: [a]", ["2: title: a list instead of text; text that looks like …"]),
        ("title: Count stars", 'title: ""', ["2: title: an empty text; a word at least is accepted"]),
        ("title: Count stars", f"title: {'x' * 201}", ["2: title: 201 characters; at most 200 are accepted"]),
        ("title: Count stars", "title: Stars: all", ["2: a second ': ' in one line; put a value that …"]),
        ("title: Count stars", "\ttitle: Count", ["2: a tab; YAML is indented with spaces"]),
        ("title: Count stars", "title: @home", ["2: a value that begins with one of * & @ % `; put …"]),
        ('"*.csv"', "*.csv", ["10: a value that begins with one of * & @ % `; put it in quotes"]),
        ('"*.csv"', "*csv", ["10: an alias (*name); write the value out, or put text in quotes"]),
        ("    type: string", "   type: string", ["7: this does not go on what began in line 6; look at …"]),
        ("type: string", "type: string\n    unti: m", ["8: unknown key 'parameters.field.unti'; did you …"]),
        (
            "type: string",
            "type: string\n    size: 3",
            ["8: unknown key 'parameters.field.size'; accepted here: name, type, description, unit, …"],
        ),
        ("type: string", "type: string\n    min: 3", ["8: parameters.field.min: 'min' is for numbers …"]),
        ("type: string", "type: number\n    max: big", ["8: parameters.field.max: 'big' is no number"]),
        (
            "type: string",
            "type: integer\n    max: 6917528997577384320\n    default: 7917528997577384320",
            ["9: parameter field is '7917528997577384320'; it accepts a whole number up to 69175289975773…"],
        ),
        ("type: string", "type: number\n    max: true", ["8: parameters.field.max: a bound is a number, …"]),
        ("type: string", "type: number\n    max: 1e999", ["8: the number 1e999 is too large"]),
        (
            "type: string",
            "type: instant\n    min: noon",
            ["8: parameters.field.min: 'noon' is not an instant in UTC such as 2026-11-03T09:00:01Z"],
        ),
        (
            "type: string",
            "type: string\n    required: yes",
            ["8: parameters.field.required: 'yes' instead of true or false; yes and no are words"],
        ),
        (
            "type: string",
            "type: string\n    required: true\n    default: x",
            ["9: parameters.field.default: a parameter is required or has a default; it cannot be both"],
        ),
        (
            "type: string",
            "type: string\n    default: [a, b]",
            ["8: parameters.field.default: a list is the default of a parameter with 'multiple: true'"],
        ),
        (
            "type: string",
            "type: string\n    default: {a: b}",
            ["8: parameters.field.default: a mapping is no default for type string"],
        ),
        ("type: string", "type: choice", ["7: parameters.field.type: type choice needs 'choices', a list …"]),
        (
            "type: string",
            "type: string\n    choices: [a]",
            ["8: parameters.field.choices: 'choices' is for type choice; this parameter is of type string"],
        ),
        (
            "type: string",
            "type: choice\n    choices: a, b",
            ["8: parameters.field.choices: 'a, b' instead of a list"],
        ),
        (
            "type: string",
            "type: choice\n    choices: [a, 2]",
            ["8: parameters.field.choices.2: 2 instead of text; text that looks like …"],
        ),
        (
            "type: string",
            "type: choice\n    choices: [a, b, a]",
            ["8: parameters.field.choices: the choice 'a' stands there twice"],
        ),
        (
            "type: string",
            "type: choice\n    choices: [dark, light]\n    means: {drak: d}",
            ["9: parameters.field.means: 'drak' is no choice; did you mean dark?"],
        ),
        ("type: string", "type: file\n    pattern: x", ["8: parameters.field.pattern: 'pattern' is for …"]),
        (
            "type: string",
            "type: string\n    ucd: em band",
            ["8: parameters.field.ucd: 'em band' is no UCD …"],
        ),
        (
            "type: string",
            "type: file\n    max_bytes: lots",
            ["8: parameters.field.max_bytes: 'lots' is not a size such as 4GiB, 500MB or a number of …"],
        ),
        ("type: string", "type: arguments\n    multiple: true", ["8: parameters.field.multiple: type …"]),
        (
            "type: string",
            "type: string\n    max_length: 0",
            ["8: parameters.field.max_length: 0 is too little; at least 1 is accepted"],
        ),
        ("name: field", "name: a field", [None]),
        (
            "{value:field}",
            "{field}",
            ["4: {field} is nothing that a runner replaces; did you mean {value:field}?"],
        ),
        (
            "{value:field}",
            "{value: field}",
            ["4: '{value: field}' is no place for a value; write {value:NAME}"],
        ),
        (
            "kind: command\n",
            "kind: command\nenvironment: {UWS_INPUTS: here}\n",
            ["4: 'UWS_INPUTS' cannot be set: a name has letters, digits and _, and UWS_ is the server's"],
        ),
        (
            "kind: command\n",
            "kind: command\nenvironment: {THREADS: 1}\n",
            ["4: environment.THREADS: 1 instead of text; text that looks like …"],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  memory: 2GiB\n",
            ["5: resources.memory: '2GiB' instead of a mapping of default, max"],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  memory: {default: 1}\n",
            ["5: resources.memory.default: '1' is too little; at least 1 MiB is accepted"],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  gpu: {default: true}\n  processes: 99999\n",
            [
                "5: resources.gpu.default: 'true' is not a whole number",
                "6: resources.processes: 99999 is too much; at most 32768 is accepted",
            ],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  time: {default: 1 day}\n",
            ["5: resources.time.default: '1 day' is not a duration such as 30min, 12h, 7d or a …"],
        ),
        (
            "kind: command\n",
            "kind: command\nresources:\n  gpu: {default: 1, max: 0}\n",
            ["5: resources.gpu.default: 'default' is above 'max'"],
        ),
        ("title: Count stars", "title: a\ntitle: b", ["3: the key 'title' stands here a second time"]),
        (
            "title: Count stars",
            "title: *name",
            ["2: an alias (*name); write the value out, or put text in quotes"],
        ),
        ("title: Count stars", "title: " + "[" * 40, ["2: nested deeper than 16 levels"]),
        (
            "title: Count stars",
            "title: !!python/name:os.system x",
            ["2: could not determine a constructor for …"],
        ),
        (
            "title: Count stars",
            "title: !!binary aGk=",
            ["2: a value that is neither text, number, true, false …"],
        ),
        ("title: Count stars", "title: a\x07b", ["2: a character that YAML does not take: #x7"]),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, found: list[str | None]) -> None:
    assert old in GOOD
    told = problems(tmp_path, GOOD.replace(old, new, 1))
    assert len(told) == len(found)
    for sentence, wanted in zip(told, found, strict=True):
        if wanted is not None:
            assert sentence.startswith(wanted.removesuffix("…")), told
            assert sentence == wanted or wanted.endswith("…"), told


@pytest.mark.covers("3:templates-check")
def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    first = write(tmp_path, "name: a\ntitle: A\nkind: command\n", "a.yaml")
    second = write(tmp_path, "- nothing\n", "b.yml")
    (tmp_path / "c.yaml").write_bytes(b"name: c\ntitle: \xff\n")
    (tmp_path / "d.yaml").mkdir()
    missing = tmp_path / "missing"
    with pytest.raises(catalog.TemplateErrors) as errors:
        catalog.load([tmp_path, missing])
    assert str(errors.value).splitlines() == [
        f"{first}:3: kind: a template of kind command needs 'command'",
        f"{second}:1: a template is a mapping with 'name', 'title', 'kind' …",
        f"{tmp_path / 'c.yaml'}:2: not UTF-8 text",
        f"{tmp_path / 'd.yaml'}:1: the file cannot be read: Is a directory",
        f"{missing}:1: the directory cannot be read: No such file or directory",
    ]


@pytest.mark.covers("3:templates-check")
@pytest.mark.parametrize(
    ("notebook", "parameter", "found"),
    [
        (
            "a.ipynb",
            "{name: depth, type: integer}",
            "parameter 'depth' is of type integer, but the notebook takes str",
        ),
        (
            "a.ipynb",
            "{name: deptj, type: string}",
            "has no parameter 'deptj' in its parameters cell; did you mean depth",
        ),
        (
            "a.ipynb",
            "{name: depth, type: string}",
            "the notebook needs 'n', which the template does not give",
        ),
        ("../a.ipynb", "{name: depth, type: string}", "'../a.ipynb' does not lie beside the template"),
        ("b.ipynb", "{name: depth, type: string}", "'b.ipynb' cannot be read: No such file or directory"),
        ("nb.yaml", "{name: depth, type: string}", "'nb.yaml': the notebook is not valid JSON"),
    ],
)
def test_a_template_is_held_against_its_notebook(
    tmp_path: Path, notebook: str, parameter: str, found: str
) -> None:
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "depth = 'x'\nn: int\n"}
    text = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]})
    write(tmp_path, text, "a.ipynb")
    write(
        tmp_path,
        f"name: nb\ntitle: T\nkind: notebook\nnotebook: {notebook}\nparameters: [{parameter}]\n",
        "nb.yaml",
    )
    told = catalog.check([tmp_path], shipped=False)
    assert any(found in problem for problem in told), told


def test_yaml_is_read_as_json_like_people_expect() -> None:
    text = dedent("""\
        words: [yes, no, on, ~, null, true, 2026-01-01, 1:30, 012, "1"]
        numbers: [1e-3, 1.5, -2, .5, 1E5]
        """)
    assert yaml_lines.read(text).data == {
        "words": ["yes", "no", "on", None, None, True, "2026-01-01", "1:30", "012", "1"],
        "numbers": [0.001, 1.5, -2, 0.5, 100000.0],
    }


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*path, key))


@pytest.mark.covers("3:templates-check")
@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_anywhere_in_a_template_is_taken_or_told_in_printable_lines(
    tmp_path: Path, data: st.DataObject
) -> None:
    shipped = data.draw(st.sampled_from(sorted(catalog.SHIPPED.glob("*.yaml"))))
    content = yaml_lines.read(shipped.read_text()).data
    *above, last = data.draw(st.sampled_from([path for path in _places(content) if path]))
    holder = content
    for part in above:
        holder = holder[part]
    holder[last] = data.draw(_ANYTHING)
    text = json.dumps(content, indent=1)
    (tmp_path / "lightcurve.ipynb").write_bytes((catalog.SHIPPED / "lightcurve.ipynb").read_bytes())
    path = tmp_path / "t.yaml"
    path.write_text(text)
    for problem in catalog.check([tmp_path], shipped=False):
        assert problem.startswith(f"{path}:")
        assert problem.isprintable()
        assert 1 <= int(problem.removeprefix(f"{path}:").partition(":")[0]) <= text.count("\n") + 1


def test_more_values_than_a_template_has_are_not_read() -> None:
    with pytest.raises(yaml_lines.Unreadable, match="more than 20000 values"):
        yaml_lines.read("[" + "1," * 30_000 + "]")
    with pytest.raises(yaml_lines.Unreadable, match="characters; at most"):
        yaml_lines.read(" " * 300_000)


@given(st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"# \n\t%@`?,1.~\x00é")), max_size=60))
@settings(deadline=None)
def test_no_text_breaks_the_reading(text: str) -> None:
    try:
        line, data = 1, yaml_lines.read(text).data
    except yaml_lines.Unreadable as error:
        line, data = error.line, None
    assert 1 <= line <= text.count("\n") + 2
    json.dumps(data)
