"""What a typed parameter accepts, and the sentence with which it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job_templates import amounts, catalog, reading
from job_templates.cross_checks import mistakes
from job_templates.description import describe, parameter_schema
from job_templates.input_files import safe_name
from job_templates.job_parameters import JobParameters
from job_templates.parameter_type import ParameterType
from job_templates.schema import Definition
from job_templates.template import Template
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Parameter, Upload

KINDS: list[dict[str, Any]] = [
    {"name": "Title", "type": "string", "max_length": 20},
    {"name": "code", "type": "string", "pattern": "[a-z]+"},
    {"name": "steps", "type": "integer", "min": 1, "max": 10},
    {"name": "period", "type": "number", "min": 0.01, "max": 100, "unit": "d"},
    {"name": "deep", "type": "boolean", "default": False},
    {"name": "band", "type": "choice", "choices": ["B", "R", "b"]},
    {"name": "since", "type": "instant", "min": "2000-01-01"},
    {"name": "any", "type": "json"},
    {"name": "opts", "type": "object"},
    {"name": "image", "type": "file", "max_bytes": "1kB"},
    {"name": "more", "type": "file", "multiple": True, "schemes": ["https"]},
    {"name": "args", "type": "arguments"},
    {"name": "env", "type": "environment"},
    {"name": "radii", "type": "number", "multiple": True, "default": [1, 2.5]},
]
NAMES = [kind["name"] for kind in KINDS]


def template(**changes: Any) -> Template:
    values: dict[str, Any] = {
        "name": "t",
        "title": "T",
        "kind": "command",
        "command": ["{python}"],
        "parameters": KINDS,
    }
    definition = Definition.model_validate({**values, **changes})
    assert mistakes(definition) == []
    return Template(**dict(definition), digest="0" * 64)


TEMPLATE = template()


def check(*pairs: tuple[str, str]) -> dict[str, Any]:
    return TEMPLATE.check([Parameter(name, value) for name, value in pairs])


@pytest.mark.covers("3:templates-types", "DALI-06")
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("TITLE", "É a b", "É a b"),
        ("title", "", ""),
        ("code", "abc", "abc"),
        ("STEPS", "+7", 7),
        ("period", "1e-1", 0.1),
        ("period", "3", 3.0),
        ("deep", "True", True),
        ("deep", "0", False),
        ("band", "b", "b"),
        ("since", "2026-11-03 09:00", "2026-11-03T09:00:00.000Z"),
        ("any", '[1, {"a": null}]', [1, {"a": None}]),
        ("opts", '{"n": 1}', {"n": 1}),
        ("image", "http://host/a/b%20c.fits?x=1", "{inputs}/image/b_c.fits"),
        ("more", "https://host/", ["{inputs}/more/file"]),
        ("args", "-v", ["-v"]),
        ("args", '["a b", "$(c)"]', ["a b", "$(c)"]),
        ("env", "A=b=c", {"A": "b=c"}),
        ("env", '{"A": "1", "B_2": ""}', {"A": "1", "B_2": ""}),
        ("radii", "3", [3.0]),
    ],
)
def test_values_are_typed_and_names_ignore_case(name: str, text: str, value: object) -> None:
    values = check((name, text))
    assert values[TEMPLATE.canonical(name)] == value
    assert type(values[TEMPLATE.canonical(name)]) is type(value)


@pytest.mark.covers("3:templates-types")
def test_defaults_fill_what_is_not_given_and_the_rest_is_absent() -> None:
    assert check() == {"deep": False, "radii": [1.0, 2.5]}


REFUSALS = [
    ("steps", "many", "parameter steps is 'many'; it accepts a whole number from 1 to 10"),
    ("steps", "11", "parameter steps is '11'; it accepts a whole number from 1 to 10"),
    ("steps", "٣", "parameter steps is '٣'; it accepts a whole number from 1 to 10"),
    ("steps", "1.0", "parameter steps is '1.0'; it accepts a whole number from 1 to 10"),
    ("PERIOD", "abc", "parameter period is 'abc'; it accepts a number from 0.01 to 100 (d)"),
    ("period", "nan", "parameter period is 'nan'; it accepts a number from 0.01 to 100 (d)"),
    ("period", "1e999", "parameter period is '1e999'; it accepts a number from 0.01 to 100 (d)"),
    ("deep", "yes", "parameter deep is 'yes'; it accepts true or false"),
    ("band", "r", "parameter band is 'r'; it accepts one of B, R, b"),
    (
        "since",
        "1999-12-31",
        (
            "parameter since is '1999-12-31'; "
            "it accepts an instant in UTC such as 2026-11-03T09:00:01Z from 2000-01-01 on"
        ),
    ),
    ("any", "NaN", "parameter any is 'NaN'; it accepts a JSON value"),
    ("opts", "[]", "parameter opts is '[]'; it accepts a JSON object"),
    ("code", "A", "parameter code is 'A'; it accepts text of at most 65536 characters that matches [a-z]+"),
    (
        "title",
        "a\x00\x1b[31m",
        "parameter Title is 'a\\x00\\x1b[31m'; it accepts text of at most 20 characters",
    ),
    (
        "title",
        "x" * 1000,
        f"parameter Title is '{'x' * 60}'…; it accepts text of at most 20 characters",
    ),
    (
        "image",
        "ftp://h/x",
        (
            "parameter image is 'ftp://h/x'; "
            "it accepts an uploaded file or the http:, https: or file: URL of one, of at most 1000 B"
        ),
    ),
    (
        "more",
        "http://h/x",
        (
            "parameter more is 'http://h/x'; "
            "it accepts an uploaded file or the https: URL of one, of at most 10 GiB"
        ),
    ),
    (
        "image",
        "http://me:secret@h/x",
        "parameter image has a user name or password in its URL; jobs are given no credentials",
    ),
    (
        "env",
        "UWS_JOB_ID=x",
        (
            "parameter env is 'UWS_JOB_ID=x'; "
            "it accepts NAME=VALUE each time it stands, or all of them as a JSON object of strings"
        ),
    ),
    (
        "bnad",
        "R",
        (
            "service t has no parameter 'bnad'; it accepts Title, code, steps, period, deep, band, since, "
            "any, opts, image, more, args, env, radii; did you mean band?"
        ),
    ),
    ("p.N", "1", "service t has no parameter 'p.N'"),
    ("CPU", "64", "parameter CPU is '64'; it accepts a number of cores from 0.001 to 4"),
    (
        "memory",
        "lots",
        "parameter MEMORY is 'lots'; it accepts a size such as 4GiB from 1 MiB to 8 GiB",
    ),
    ("GPU", "1", "parameter GPU is '1'; it accepts a whole number from 0 to 0"),
]


@pytest.mark.covers("3:bad-parameter", "3:bad-plain-sentence", "DALI-08")
@pytest.mark.parametrize(("name", "text", "sentence"), REFUSALS, ids=lambda value: str(value)[:24])
def test_a_refusal_names_the_parameter_the_value_and_what_is_accepted(
    name: str, text: str, sentence: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        check((name, text))
    assert str(refused.value).startswith(sentence)
    assert str(refused.value).isprintable()


@pytest.mark.covers("3:bad-json-bomb")
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "9" * 100_000, '"\\ud800"'])
def test_json_that_is_made_to_hurt_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"parameter any is .*; it accepts a JSON value"):
        check(("any", text))


@pytest.mark.covers("DALI-07", "UWS-64")
def test_only_parameters_that_may_be_repeated_may() -> None:
    with pytest.raises(BadRequest, match="parameter steps may stand only once; it stands 2 times"):
        check(("steps", "1"), ("STEPS", "1"))
    with pytest.raises(BadRequest, match="parameter CPU may stand only once"):
        check(("cpu", "1"), ("CPU", "1"))
    assert check(("radii", "3"), ("Radii", "4"))["radii"] == [3.0, 4.0]
    assert check(("args", "a"), ("args", "b"))["args"] == ["a", "b"]
    with pytest.raises(BadRequest, match="stands 1001 times; at most 1000"):
        check(*[("radii", "1")] * 1001)


def test_a_missing_required_parameter_is_named() -> None:
    needy = template(parameters=[{"name": "stars", "type": "integer", "required": True, "max": 9}])
    with pytest.raises(BadRequest, match="parameter stars is missing; it accepts a whole number up to 9"):
        needy.check([])


def test_a_file_is_taken_only_where_one_is_due_and_not_too_large() -> None:
    with pytest.raises(BadRequest, match="parameter steps takes text, not a file"):
        TEMPLATE.check([Parameter("steps", "x", Upload(1, "0" * 64, "text/plain"))])
    with pytest.raises(BadRequest, match=r"file for parameter image has 1001 bytes; it accepts .* 1000 B"):
        TEMPLATE.check([Parameter("image", "x", Upload(1001, "0" * 64, "text/plain"))])
    with pytest.raises(BadRequest, match=r"name the further ones more\.2, more\.3"):
        TEMPLATE.check([Parameter("more", "x", Upload(1, "0" * 64, "text/plain"))] * 2)


def test_several_uploads_of_one_parameter_are_numbered() -> None:
    upload = Upload(1, "0" * 64, "text/plain")
    given = [Parameter(TEMPLATE.canonical(name), "a.fits", upload) for name in ("MORE", "More.2", "more.10")]
    assert [parameter.name for parameter in given] == ["more", "more.2", "more.10"]
    assert TEMPLATE.check(given)["more"] == [
        "{inputs}/more/a.fits",
        "{inputs}/more/2-a.fits",
        "{inputs}/more/3-a.fits",
    ]
    assert [file.input.source for file in JobParameters(TEMPLATE, given).staged["more"]] == [
        "upload:more",
        "upload:more.2",
        "upload:more.10",
    ]
    assert TEMPLATE.find("image.2") is None  # takes one file only
    assert TEMPLATE.find("more.0") is None


def test_a_checksum_travels_in_the_fragment() -> None:
    digest = "ab" * 32
    given = [Parameter("image", f"https://h/x.fits#sha256={digest.upper()}")]
    (file,) = JobParameters(TEMPLATE, given).staged["image"]
    assert (file.input.source, file.input.sha256) == ("https://h/x.fits", digest)
    with pytest.raises(BadRequest, match="may end in #sha256= and 64 hex digits, not in '#top'"):
        check(("image", "https://h/x.fits#top"))


@pytest.mark.covers("3:bad-path")
@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\m 31.fits", "m_31.fits"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("a\x00b\n.txt", "a_b_.txt"),
        ("ünï.fits.gz", "n_.fits.gz"),
        ("", "file"),
        ("x" * 500 + ".fits", "x" * 100 + ".fits"),
    ],
)
def test_of_a_hostile_file_name_a_safe_base_name_is_kept(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.covers("3:bad-path")
@given(st.text())
def test_every_file_name_becomes_one_plain_path_segment(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= 120
    assert safe.isascii()
    assert safe.isprintable()
    assert not set(safe) & set("/\\ {}")
    assert safe[0] not in ".-"


@pytest.mark.covers("3:templates-limits")
def test_resource_words_ask_for_more_or_less_up_to_the_ceilings() -> None:
    asked = [
        Parameter(name, value) for name, value in (("Cpu", "0.5"), ("MEMORY", "1.5 GiB"), ("disk", "20Gi"))
    ]
    resources = TEMPLATE.resources_of(asked)
    assert resources.cpu_milli == 500
    assert resources.memory_bytes == 3 * 512 * 1024**2
    assert resources.disk_bytes == 20 * 1024**3
    assert resources.gpu == 0
    assert TEMPLATE.resources_of([]).cpu_milli == 1000
    assert TEMPLATE.check(asked) == TEMPLATE.check([])  # they are no parameters of the computation
    assert [TEMPLATE.canonical(one.name) for one in asked] == ["CPU", "MEMORY", "DISK"]


@pytest.mark.covers("UWS-66", "3:templates-limits")
def test_wishes_for_time_are_clipped_to_the_ceilings() -> None:
    limited = template(
        resources={"time": {"default": "1h", "max": "2h"}, "retention": {"default": "1d", "max": "2d"}}
    )
    wishes = [None, 0, 1, 7200, 7201]
    assert [limited.duration(wish) for wish in wishes] == [3600, 7200, 1, 7200, 7200]
    assert [limited.retention(wish) for wish in (None, 10, 10**9)] == [86400, 10, 172800]
    assert limited.retention_ceiling() == 172800
    free = template(
        resources={
            "time": {"default": "unlimited", "max": "unlimited"},
            "retention": {"default": "1d", "max": "unlimited"},
        }
    )
    assert [free.duration(wish) for wish in (None, 0, 10**9)] == [0, 0, 10**9]
    assert free.retention(10**9) == 10**9
    assert free.retention_ceiling() == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4GiB", 4 * 1024**3),
        ("4 GB", 4 * 10**9),
        ("0.1TiB", 109951162777),
        ("512mi", 512 * 1024**2),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert amounts.read_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "1XB", "1 2", "1" * 20, "٣GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="a size such as"):
        amounts.read_size(text)


def test_cores_and_durations() -> None:
    assert [amounts.read_cores(text) for text in ("2", "0.25", "1500m")] == [2000, 250, 1500]
    assert [amounts.read_duration(text) for text in ("90", "30min", "1.5h", "7d")] == [
        90,
        1800,
        5400,
        604800,
    ]


_NAMES = st.one_of(
    st.sampled_from(
        [*NAMES, *(name.upper() for name in NAMES), "more.2", "CPU", "memory", "p.n", "p.", "ſteps"]
    ),
    st.text(),
)
_VALUES = st.one_of(
    st.text(),
    st.sampled_from(
        ["http://[", "file:///x", "https://h:0/", "https://h:x/", '{"a": 1}', "[1]", "1e400", "-0"]
    ),
    st.floats().map(str),
    st.integers().map(str),
    st.datetimes().map(str),
)
_UPLOADS = st.one_of(st.none(), st.builds(Upload, st.integers(0, 2000), st.just("0" * 64), st.text()))
_PARAMETERS = st.lists(st.builds(Parameter, _NAMES, _VALUES, _UPLOADS), max_size=6)


@pytest.mark.covers("3:bad-parameter", "3:bad-control-characters")
@given(_PARAMETERS)
@example([Parameter("since", "0000")])
@settings(max_examples=400, deadline=None)
def test_whatever_is_sent_is_typed_or_refused_in_one_printable_sentence(parameters: list[Parameter]) -> None:
    try:
        values = TEMPLATE.check(parameters)
    except BadRequest as refused:
        sentence = str(refused)
        assert sentence.isprintable()
        assert 0 < len(sentence) < 1000
    else:
        assert set(values) <= set(NAMES)


_ODD = [
    "",
    " ",
    "nan",
    "-inf",
    "\u22125",
    "1e400",
    "1.5 d",
    "1_000",
    "0x10",
    "1,5",
    "\uff11\uff12",
    "[1]",
    "null",
    "yes",
]


@pytest.mark.covers("3:bad-parameter", "3:templates-types")
@pytest.mark.parametrize("type_", ["integer", "number", "boolean", "instant", "object"])
@pytest.mark.parametrize("text", _ODD)
def test_what_looks_like_a_number_but_is_none_is_refused(type_: Any, text: str) -> None:
    with pytest.raises(BadRequest, match=r"^parameter x is .*; it accepts "):
        reading.read(ParameterType(name="x", type=type_), text)


@pytest.mark.covers("3:templates-types")
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_arrives_as_it_was_written(number: float) -> None:
    kind = ParameterType(name="x", type="number", min=-1e300, max=1e300)
    if abs(number) <= 1e300:
        assert reading.read(kind, repr(number)) == number
    else:
        with pytest.raises(BadRequest, match="it accepts a number from"):
            reading.read(kind, repr(number))


@pytest.mark.covers("3:templates-types")
@given(st.integers(-(10**20), 10**20))
@example(6917528997577384320)  # as Gaia numbers its sources
@example(2**63 - 1)
@example(2**63)
@example(-(2**63))
@example(-(2**63) - 1)
def test_every_whole_number_of_64_bits_arrives_and_a_larger_one_is_refused(number: int) -> None:
    kind = ParameterType(name="x", type="integer")
    if -(2**63) <= number < 2**63:
        assert reading.read(kind, str(number)) == number
    else:
        with pytest.raises(BadRequest, match="it accepts a whole number of 64 bits"):
            reading.read(kind, str(number))


@given(st.integers(0, 10**15 - 1))
def test_a_size_that_is_written_reads_back(size: int) -> None:
    assert amounts.read_size(amounts.write_size(size)) == size


@pytest.mark.covers("3:bad-long-name", "3:bad-many-parameters")
def test_names_of_a_megabyte_and_ten_thousand_of_them_cost_no_more_than_a_sentence() -> None:
    with pytest.raises(BadRequest) as refused:
        check(("n" * 1_000_000, "1"))
    assert len(str(refused.value)) < 300
    with pytest.raises(BadRequest, match="has no parameter 'n0'"):
        check(*((f"n{number}", "1") for number in range(10_000)))


@pytest.mark.covers("3:services", "3:openapi")
def test_a_service_is_described_with_everything_that_a_form_needs() -> None:
    about = describe(TEMPLATE)
    period = next(one for one in about["parameters"] if one["name"] == "period")
    assert period == {
        "name": "period",
        "type": "number",
        "unit": "d",
        "min": 0.01,
        "max": 100,
        "accepts": "a number from 0.01 to 100 (d)",
    }
    assert about["resources"]["cpu"] == {"default": 1.0, "max": 4.0}
    schema = parameter_schema(TEMPLATE)
    assert schema["properties"]["period"] == {
        "type": "number",
        "minimum": 0.01,
        "maximum": 100,
        "x-unit": "d",
    }
    assert schema["properties"]["band"] == {"type": "string", "enum": ["B", "R", "b"]}
    assert schema["properties"]["radii"]["items"] == {"type": "number"}
    assert not schema["additionalProperties"]


def test_every_kind_of_parameter_says_what_it_accepts() -> None:
    assert all(ParameterType.model_validate(kind).accepts() for kind in KINDS)
    assert all(parameter.accepts() for service in catalog.load() for parameter in service.parameters)
