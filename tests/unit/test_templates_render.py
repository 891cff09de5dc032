"""Template + job -> run spec, held against golden files.

UPDATE_GOLDEN=1 pytest tests/unit/test_templates_render.py   writes them anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_templates import catalog
from job_templates.cross_checks import mistakes
from job_templates.render import render
from job_templates.schema import Definition
from job_templates.template import Template
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Job, Parameter, Upload
from uws_server.domain.runspec import Input, RunSpec, located

GOLDEN = Path(__file__).parents[1] / "golden" / "runspec"
CATALOG = catalog.load()


def upload(digit: str, size: int = 1000) -> Upload:
    return Upload(size, digit * 64, "application/octet-stream")


def job(service: str, *parameters: Parameter, duration: int = 600) -> Job:
    return Job(
        id="06c0r0qk5v3e9h8b2m7t4d1a6f",
        service=service,
        owner="ada",
        created=1_800_000_000_000,
        parameters=parameters,
        duration=duration,
        attempt=2,
    )


JOBS = {
    "notebook-upload": job(
        "notebook",
        Parameter("notebook", "my notebook.ipynb", upload("a")),
        Parameter("p.phase", "0.5"),
        Parameter("p.N", "3"),
        Parameter("p.n", "three"),
        Parameter("input", "../m31.fits", upload("b")),
        Parameter("input.2", "m31.fits", upload("c")),
        Parameter("input", "https://archive.example/data/m31.fits?version=2"),
        Parameter("kernel", "python3"),
        Parameter("CPU", "2"),
        Parameter("MEMORY", "8GiB"),
    ),
    "notebook-url": job(
        "notebook",
        Parameter("notebook", "https://archive.example/a.ipynb"),
        Parameter("parameters", '{"phase": 0.5, "N": 3, "n": "three"}'),
    ),
    "lightcurve": job(
        "lightcurve",
        Parameter("light_curve", "lc_1.3444.614.R.mjd", upload("d")),
        Parameter("max_period", "20"),
    ),
    "container": job(
        "container",
        Parameter("image", "registry.example/stars:1.2"),
        Parameter("command", '["stars", "--input", "{inputs}/input/m31.fits", "$(touch /tmp/x); `id`"]'),
        Parameter("env", "MODE=deep"),
        Parameter("env", '{"LEVEL": "2"}'),
        Parameter("input", f"https://archive.example/m31.fits#sha256={'e' * 64}"),
        duration=0,
    ),
    "container-entry-point": job("container", Parameter("image", "stars@sha256:" + "f" * 64)),
    "script-python": job(
        "script",
        Parameter("script", "run me.py", upload("a")),
        Parameter("args", "--deep"),
        Parameter("args", "a b; rm -rf /"),
    ),
    "script-shell": job(
        "script",
        Parameter("script", "run.sh", upload("a")),
        Parameter("interpreter", "sh"),
        Parameter("GPU", "1"),
    ),
}


def rendered(name: str) -> RunSpec:
    return render(CATALOG.get(JOBS[name].service), JOBS[name])


@pytest.mark.covers(
    "3:template-notebook", "3:template-lightcurve", "3:template-container", "3:template-script"
)
@pytest.mark.parametrize("name", JOBS)
def test_run_specs_are_the_golden_ones(name: str) -> None:
    spec = asdict(rendered(name))
    for file in spec["inputs"]:
        if file["content"] is not None:  # the shipped notebook has tests of its own
            file["content"] = f"{file['source']} as it ships"
    text = json.dumps(spec, indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_every_golden_file_belongs_to_a_job() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_rendering_again_gives_the_same_and_json_brings_it_back(name: str) -> None:
    spec = rendered(name)
    assert rendered(name) == spec
    assert RunSpec.from_json(spec.to_json()) == spec


@pytest.mark.covers("3:template-lightcurve")
def test_the_shipped_notebook_travels_in_the_run_spec() -> None:
    spec = rendered("lightcurve")
    assert spec.inputs[0] == Input(
        path="notebook.ipynb",
        source="inline:lightcurve.ipynb",
        content=(catalog.SHIPPED / "lightcurve.ipynb").read_text(encoding="utf-8"),
    )
    assert len(spec.to_json()) < 1024**2


@pytest.mark.covers("3:templates-outputs")
def test_outputs_go_from_the_special_to_the_general() -> None:
    assert [(output.id, output.glob) for output in rendered("notebook-url").outputs] == [
        ("notebook", "executed.ipynb"),
        ("html", "executed.html"),
        ("output", "**"),
    ]


@pytest.mark.covers("3:results-single")
def test_services_with_one_output_call_it_result() -> None:
    single = {
        template.name: template.all_outputs[0].id for template in CATALOG if len(template.all_outputs) == 1
    }
    assert single == {"container": "result", "script": "result"}
    assert [template.sync_result for template in CATALOG] == ["result", "period", "notebook", "result"]


def test_a_job_that_no_longer_suits_its_template_is_refused() -> None:
    with pytest.raises(BadRequest, match="service script has no parameter 'level'"):
        render(CATALOG.get("script"), job("script", Parameter("level", "3")))


def test_values_fill_command_items_without_a_shell() -> None:
    template = Template(
        **{
            **dict(CATALOG.get("script")),
            "command": ("x", "--n={value:n}", "{value:absent}", "{value:list}", "{value:on}"),
            "environment": {"N": "<{value:n}>"},
            "parameters": [
                {"name": "n", "type": "number", "default": 0.5},
                {"name": "absent", "type": "string"},
                {"name": "list", "type": "integer", "multiple": True, "default": [1, 2]},
                {"name": "on", "type": "boolean", "default": True},
            ],
        }
    )
    spec = render(template, job("script"))
    assert spec.command == ("x", "--n=0.5", "1", "2", "true")
    assert spec.environment == {"N": "<0.5>"}


def test_a_choice_may_mean_another_word_and_a_list_within_text_is_json() -> None:
    colours = {"name": "colour", "type": "choice", "choices": ["r", "b"], "means": {"r": "red"}}
    template = Template(
        **{
            **dict(CATALOG.get("script")),
            "command": ("x", "{value:colour}", "--all={value:colours}", "{value:colours}"),
            "environment": {"ONE": "{value:colour}", "ALL": "{value:colours}", "NONE": "{value:absent}"},
            "parameters": [
                {**colours, "default": "r"},
                {**colours, "name": "colours", "multiple": True, "default": ["b", "r"]},
                {"name": "absent", "type": "string"},
            ],
        }
    )
    spec = render(template, job("script"))
    assert spec.command == ("x", "red", '--all=["b", "red"]', "b", "red")
    assert spec.environment == {"ONE": "red", "ALL": '["b", "red"]', "NONE": ""}
    assert spec.parameters == {"colour": "r", "colours": ["b", "r"]}


_VALUES = {
    "string": ["", "a b", "{value:x}", "{inputs}/x"],
    "integer": ["0", "-7", str(2**63 - 1)],
    "number": ["1e-3", "5.", "-0"],
    "boolean": ["true", "0"],
    "choice": ["a", "b"],
    "instant": ["2026-11-03"],
    "json": ["null", "[1, null]", '{"a": []}', '"x"'],
    "object": ["{}", '{"a": {"b": 1}}'],
    "file": ["https://h/x.fits", "file:///data/x"],
    "arguments": ["x", '["a", "b"]'],
    "environment": ["A=1", '{"B": "2"}'],
}


@st.composite
def _services(draw: st.DrawFn) -> tuple[dict[str, Any], list[Parameter]]:
    """The content of a template, and parameters of a job for it."""
    type_ = draw(st.sampled_from(sorted(_VALUES)))
    several = draw(st.booleans()) and type_ not in ("arguments", "environment")
    kind: dict[str, Any] = {"name": "x", "type": type_, "multiple": several}
    if type_ == "choice":
        kind |= {"choices": ["a", "b"], "means": {"a": "{python}"}}
    text = st.sampled_from(_VALUES[type_])
    if draw(st.booleans()):
        kind["default"] = draw(st.lists(text, max_size=2)) if several else draw(text)
    values = draw(st.lists(text, max_size=2 if several else 1))
    content = {
        "name": "t",
        "title": "T",
        "kind": draw(st.sampled_from(["command", "container"])),
        "command": ["run", "{value:x}", "-x={value:x}"],
        "environment": {"X": "<{value:x}>", "Y": "{value:x}"},
        "parameters": [kind],
    }
    if content["kind"] == "container":
        content["image"] = "h/{value:x}"
    return content, [Parameter("x", one) for one in values]


@pytest.mark.covers("3:templates-types")
@given(_services())
@settings(max_examples=300, deadline=None)
def test_whatever_a_right_template_is_given_makes_a_run_spec(
    service: tuple[dict[str, Any], list[Parameter]],
) -> None:
    content, parameters = service
    definition = Definition.model_validate_json(json.dumps(content), strict=True)
    assert mistakes(definition) == []
    template = Template(**dict(definition), digest="0" * 64)
    spec = render(template, job("t", *parameters))
    texts = (*spec.command, *spec.environment.values())
    assert all(isinstance(text, str) for text in texts)
    assert RunSpec.from_json(spec.to_json()) == spec


def test_only_text_that_begins_with_a_directory_is_located() -> None:
    value = {
        "a": ["{inputs}/x", "see {inputs}/x", "{inputs}", 3],
        "{inputs}/k": "{outputs}/{inputs}/y",
        "n": None,
    }
    assert located(value, "/in", "/out") == {
        "a": ["/in/x", "see {inputs}/x", "{inputs}", 3],
        "{inputs}/k": "/out/{inputs}/y",
        "n": None,
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"command": 1}', '{"command": [], "inputs": [{"x": 1}]}'])
def test_what_is_no_run_spec_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a run spec|Expecting value"):
        RunSpec.from_json(text)
