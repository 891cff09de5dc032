"""What pydantic finds wrong with a template, in words of its file: which key, what, and what is accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from job_templates.client_text import nearest, shown
from job_templates.schema import Definition
from job_templates.strict import Misfit

Path = tuple[str | int, ...]

_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def place_and_sentence(item: Any, data: Any) -> tuple[Path, str]:
    """One of pydantic's errors: the path of the key that is wrong within the file, and a sentence.

    :param data: the content of the file.
    """
    path: Path = item["loc"]
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    match kind:
        case "extra_forbidden":
            keys = _keys(path[:-1])
            near = nearest(str(path[-1]), keys) or f"; accepted here: {', '.join(keys)}"
            return path, f"unknown key {_named(path, data)!r}{near}"
        case "missing":
            return path[:-1], f"{_named(path, data)!r} is missing"
        case "value_error":
            error = context["error"]
            path = (*path, error.key) if isinstance(error, Misfit) else path
            return path, f"{_named(path, data)}: {error}"
        case "literal_error":
            accepted = context["expected"].replace("'", "")
            words = f"{shown(str(given))} is none of {accepted}"
            return path, f"{_named(path, data)}: {words}{nearest(str(given), accepted.split(', '))}"
        case "greater_than_equal":
            words = f"{given} is too little; at least {context['ge']} is accepted"
        case "less_than_equal":
            words = f"{given} is too much; at most {context['le']} is accepted"
        case "string_too_short":
            words = "an empty text; a word at least is accepted"
        case "string_too_long":
            words = f"{len(str(given))} characters; at most {context['max_length']} are accepted"
        case _:
            words = f"{_shape(given)} instead of {_EXPECTED.get(kind, item['msg'])}"
            keys = _keys(path)
            if kind.startswith("model") and keys:
                words += f" of {', '.join(keys)}"
            if kind == "string_type" and given is not None:
                words += "; text that looks like something else stands in quotes"
            if kind == "bool_type":
                words += "; yes and no are words"
    return path, f"{_named(path, data)}: {words}"


def _named(path: Path, data: Any) -> str:
    """``parameters.limit.min``: an item of a list goes by its name or id, or by its number from 1."""
    words: list[str] = []
    for part in path:
        data = _inside(data, part)
        if isinstance(part, int):
            name = next((data[key] for key in ("name", "id") if _has_text(data, key)), None)
            words.append(name or str(part + 1))
        else:
            words.append(part)
    return ".".join(words)


def _inside(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def _has_text(data: Any, key: str) -> bool:
    return isinstance(data, Mapping) and isinstance(data.get(key), str) and data[key].isprintable()


def _shape(given: Any) -> str:
    match given:
        case None:
            return "nothing"
        case bool():
            return str(given).lower()
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case str():
            return shown(given)
        case _:
            return str(given)


def _keys(path: Sequence[int | str]) -> list[str]:
    """The keys that a template has at a place."""
    model: type[BaseModel] = Definition
    for part in path:
        if isinstance(part, str):
            field = model.model_fields.get(part)
            candidates = [field.annotation, *get_args(field.annotation)] if field else []
            inner = [one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)]
            if not inner:
                return []
            model = inner[0]
    return list(model.model_fields)
