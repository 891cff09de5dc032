"""Load the settings: defaults, then a file, then ``UWS_…`` of the environment, then the command line.

An unknown key refuses the start: a setting that is silently not there is worse than none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from uws_server.config_file import BadConfig, read
from uws_server.setting_names import nearest
from uws_server.settings import Settings

KEYS_OF_OTHERS = frozenset(
    {
        # for the commands themselves
        "UWS_CONFIG",
        "UWS_URL",
        "UWS_TOKEN",
        "UWS_SERVER",
        # what user code is given; a job may well talk about the server
        "UWS_JOB_ID",
        "UWS_ATTEMPT",
        "UWS_INPUTS",
        "UWS_OUTPUTS",
        "UWS_PARAMETERS",
        "UWS_PROGRESS",
        "UWS_ERROR",
    }
)
"""Names in the environment that begin with ``UWS_`` and are no settings."""

# Kubernetes puts such entries into every container for a Service named uws-something.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings, from weakest to strongest: defaults, ``file``, ``environment``, ``options``.

    :param file: YAML, TOML or JSON by its suffix; else what ``UWS_CONFIG`` in the environment names.
    :param environment: ``UWS_WEB__PORT`` sets ``web.port``; lists and maps are written as YAML.
    :param options: values by dotted key, None ones left out.
    :raises BadConfig: with a sentence for each key that is wrong, and where it stands.
    """
    environment = os.environ if environment is None else environment
    tree: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    if file is None and environment.get("UWS_CONFIG"):
        file = Path(environment["UWS_CONFIG"])
    if file is not None:
        tree, lines = read(file)
        origins = {path: f"{file}, line {line}" for path, line in lines.items()}
    for name, path, value in _from_environment(environment):
        _put(tree, path, value, f"the environment's {name}")
        origins[path] = f"the environment's {name}"
    for key, value in (options or {}).items():
        if value is not None:
            path = tuple(key.split("."))
            _put(tree, path, value, "the command line")
            origins[path] = "the command line"
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise BadConfig("\n".join(dict.fromkeys(_sentences(error, origins)))) from error


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    for name in sorted(environment):
        if not name.startswith("UWS_") or name in KEYS_OF_OTHERS:
            continue
        text = environment[name]
        if _SERVICE_LINK.search(name) or (name.endswith("_PORT") and "://" in text):
            continue
        value: Any = text
        if text[:1] in {"[", "{"}:
            import yaml

            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise BadConfig(f"the environment's {name} is no YAML: {error}") from error
        yield name, tuple(name.removeprefix("UWS_").lower().split("__")), value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any, origin: str) -> None:
    for key in path[:-1]:
        deeper = tree.setdefault(key, {})
        if not isinstance(deeper, dict):
            raise BadConfig(f"{'.'.join(path)} (in {origin}): {key} is no section")
        tree = deeper
    tree[path[-1]] = value


def _sentences(error: ValidationError, origins: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        path = tuple(str(part) for part in item["loc"] if part != "[key]")
        where = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), "")
        name = ".".join(path)
        place = f" (in {where})" if where else ""
        if item["type"] == "extra_forbidden":
            yield f"unknown setting {name}{place}; {nearest(path)}"
        elif not path:
            yield item["msg"].removeprefix("Value error, ")
        else:
            yield f"{name}{place}: {item['msg'][:1].lower()}{item['msg'][1:]}"
