"""The names of all settings, and which of them somebody may have meant who wrote another."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from uws_server.settings import Settings


def keys(model: type[BaseModel] = Settings, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key there is, sections before what they hold; ``NAME`` stands for that of a site or registry."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, (*prefix, name))
        elif inner := named_sections(field.annotation):
            yield from keys(inner, (*prefix, name, "NAME"))


def named_sections(annotation: Any) -> type[BaseModel] | None:
    """The model of sections that have names of their own, such as sites; None for any other setting."""
    inner = get_args(annotation)[1] if get_origin(annotation) is dict else None
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def nearest(path: tuple[str, ...]) -> str:
    """What may have been meant: a neighbour spelled alike, else any key, else all neighbours."""
    known = list(keys())
    section = tuple(
        "NAME" if n and path[n - 1] in ("sites", "registries") else part for n, part in enumerate(path[:-1])
    )
    near = [key[-1] for key in known if key[:-1] == section]
    close = difflib.get_close_matches(path[-1], near, n=1)
    if close:
        return f"did you mean {'.'.join((*path[:-1], *close))}?"
    anywhere = difflib.get_close_matches(
        ".".join(path), [".".join(key) for key in known], n=1
    ) or difflib.get_close_matches(path[-1], [key[-1] for key in known], n=1, cutoff=0.8)
    if anywhere:
        found = next(key for key in known if anywhere[0] in {key[-1], ".".join(key)})
        return f"did you mean {'.'.join(found)}?"
    return f"there are {', '.join(near)}" if near else "there is no such section"
