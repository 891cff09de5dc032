"""Write docs/configuration.md from the settings tree: ``python -m scripts.describe_settings``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from uws_server.setting_names import named_sections
from uws_server.settings import Settings

PATH = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by scripts/describe_settings.py from uws_server/settings.py; do not edit. -->

Every setting has a default; on one machine nothing needs to be set. Settings come from four places; the
later ones win:

1. the defaults below,
2. a YAML or TOML file, named by `--config FILE` or the environment's `UWS_CONFIG`,
3. the environment: `UWS_WEB__PORT=8081` sets `web.port`; lists and maps are written as YAML, such as
   `UWS_TEMPLATES__DIRECTORIES='[/srv/templates]'`,
4. options of the command, such as `--port`.

A key that does not exist is an error: the start is refused, and the key named with its place and the
nearest one there is. Sizes take units (`64 MiB`). Relative paths count from the directory in which the
command is started; a service wants absolute ones. `deploy/uws.example.yaml` is a file to start from.
"""


def document(model: type[BaseModel]) -> str:
    """The whole page."""
    return HEAD + "".join(_section("", model, ""))


def _section(name: str, model: type[BaseModel], intro: str) -> Iterator[str]:
    deeper: list[tuple[str, type[BaseModel], str]] = []
    rows: list[str] = []
    for key, field in model.model_fields.items():
        path = f"{name}.{key}" if name else key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            deeper.append((path, field.annotation, (field.annotation.__doc__ or "").strip()))
        elif inner := named_sections(field.annotation):
            deeper.append((f"{path}.NAME", inner, f"{field.description} {(inner.__doc__ or '').strip()}"))
        else:
            rows.append(
                f"| `{key}` | {_type(field.annotation)} | {_default(field)} | {field.description} |\n"
            )
    if rows:
        heading = f"\n## `{name}`\n" if name else "\n## At the top\n"
        yield heading + (f"\n{intro}\n" if intro else "")
        yield "\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n"
        yield from rows
    for path, inner, words in deeper:
        yield from _section(path, inner, words)


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, ByteSize):
        return f"`{value.human_readable()}`" if value else "`0`"
    if value is None or value in ("", (), {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(annotation: Any) -> str:
    """A setting's type in words."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in {Union, UnionType}:
        return " or ".join(_type(part) for part in get_args(annotation) if part is not type(None))
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is tuple:
        return f"list of {_type(get_args(annotation)[0])}s"
    if origin is dict:
        return "map"
    words = {
        int: "whole number",
        float: "number",
        bool: "true or false",
        str: "text",
        Path: "path",
        ByteSize: "size",
    }
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


if __name__ == "__main__":
    PATH.write_text(document(Settings), encoding="utf-8")
