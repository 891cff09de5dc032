"""The parameters that a notebook itself names: ``p.NAME`` and the JSON object ``parameters``.

Their names keep their case, unlike those of a template (DALI-06 is about a service's own parameters;
a notebook may well have both ``N`` and ``n``), and no word is reserved: ``p.phase`` is no ``PHASE``.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from job_templates.client_text import read_json, shown
from job_templates.notebook_parameters import NotebookParameter
from uws_server.domain.errors import BadRequest

PREFIX = "p."
MAX_NAME = 128

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a JSON list",
    "dict": "a JSON object",
    "any": "a JSON value or text",
}


def is_own(name: str) -> bool:
    """Whether a name is that of a notebook's own parameter."""
    return name[:2].casefold() == PREFIX


def own_name(name: str) -> str:
    """``N`` of ``p.N``, in the case that it was sent in.

    :raises BadRequest: no name that Python could have.
    """
    own = name[2:]
    if len(own) > MAX_NAME or not own.isidentifier():
        raise BadRequest(f"parameter {shown(name)} names no variable; a notebook's own parameters are p.NAME")
    return own


def from_text(known: Sequence[NotebookParameter] | None, name: str, text: str) -> Any:
    """The value of a client's text, typed as the notebook has it.

    :param known: what `job_templates.notebook_parameters.read_parameters` found; None accepts any name.
    :raises BadRequest: unknown to the notebook, or not what it takes.
    """
    parameter = _find(known, name)
    kind = parameter.type if parameter else "any"
    if kind == "str":
        return _checked(parameter, name, text, text)
    try:
        value = read_json({"True": "true", "False": "false", "None": "null"}.get(text.strip(), text))
    except (ValueError, RecursionError):
        value = _other_number(text) if kind in ("int", "float") else text
    if kind == "bool" and type(value) is int and value in (0, 1):
        value = bool(value)
    return _checked(parameter, name, value, text)


def from_object(known: Sequence[NotebookParameter] | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a JSON object, each held against the notebook.

    :raises BadRequest: unknown to the notebook, or not what it takes.
    """
    return {
        name: _checked(_find(known, name), name, value, value if isinstance(value, str) else _brief(value))
        for name, value in values.items()
    }


def check_required(known: Sequence[NotebookParameter] | None, given: Mapping[str, Any]) -> None:
    """See that whatever the notebook gives no value itself is given.

    :raises BadRequest: names the first that is missing.
    """
    for parameter in known or ():
        if parameter.required and parameter.name not in given:
            raise BadRequest(f"the notebook needs {PREFIX}{parameter.name}: {accepts(parameter)}")


def accepts(parameter: NotebookParameter) -> str:
    """What the notebook's parameter takes, in words."""
    return _WORDS[parameter.type] + (" or null" if parameter.nullable and parameter.type != "any" else "")


def _find(known: Sequence[NotebookParameter] | None, name: str) -> NotebookParameter | None:
    if known is None:
        return None
    for parameter in known:
        if parameter.name == name:
            return parameter
    names = [parameter.name for parameter in known]
    if not names:
        raise BadRequest(
            f"the notebook has no parameter {shown(name)}; it has no cell tagged 'parameters' and takes none"
        )
    near = difflib.get_close_matches(name[:MAX_NAME], names, 1, 0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    listed = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    raise BadRequest(f"the notebook has no parameter {shown(name)}; it accepts {listed}{hint}")


def _checked(parameter: NotebookParameter | None, name: str, value: Any, given: str) -> Any:
    """The value, when it fits. Text that is no JSON fits only where text or anything is taken."""
    if parameter is None or parameter.type == "any":
        return value
    kinds: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
        "list": (list,),
        "dict": (dict,),
    }
    fits = isinstance(value, kinds[parameter.type]) and (
        parameter.type == "bool" or not isinstance(value, bool)
    )
    if fits and parameter.type == "float":
        fits = abs(value) <= sys.float_info.max
    if not (fits or (value is None and parameter.nullable)):
        raise BadRequest(
            f"parameter {PREFIX}{name} is {shown(given)}; the notebook takes {accepts(parameter)} there"
        )
    return float(value) if parameter.type == "float" and value is not None else value


def _other_number(text: str) -> Any:
    # "+3", ".5" and "007" are no JSON but what people write; any other text stays text.
    stripped = text.strip()
    if not stripped.isascii() or stripped[:1] not in {"+", "-", ".", *"0123456789"} or len(stripped) > 400:
        return text
    for read in (int, float):
        try:
            value = read(stripped.replace("_", "?"))
            read_json(repr(value))
        except (ValueError, OverflowError):
            continue
        return value
    return text


def _brief(value: Any) -> str:
    return json.dumps(value)[:200]
