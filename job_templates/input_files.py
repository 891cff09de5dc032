"""Which files a job brings, and under which names they lie beneath the inputs directory.

The names that clients give their files are hostile: only a safe base name is kept of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from job_templates.client_text import shown
from job_templates.parameter_type import ParameterType
from job_templates.reading import read_url
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Parameter
from uws_server.domain.runspec import Input

INPUTS = "{inputs}/"
"""How values name the inputs directory; the runner puts the real one in its place."""

_MAX_NAME = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Staged:
    """One file, and the value that stands for it among the job's typed values."""

    input: Input

    @property
    def value(self) -> str:
        """``{inputs}/light_curve/lc.dat``."""
        return INPUTS + self.input.path


def safe_name(name: str) -> str:
    """The last part of a path or URL path, of letters, digits and ``._+-`` only; its extension is kept.

    Never empty, never hidden, never an option, at most 120 characters.
    """
    base = _UNSAFE.sub("_", re.split(r"[/\\]", name.rstrip("/\\"))[-1]).lstrip(".-_")
    if len(base) > _MAX_NAME:
        stem, dot, extension = base.rpartition(".")
        extension = extension if dot and len(extension) <= 16 else ""
        base = f"{(stem or base)[: _MAX_NAME - 20]}.{extension}".rstrip(".")
    return base or "file"


def stage(
    kind: ParameterType, parameter: Parameter, taken: Collection[str] = (), path: str | None = None
) -> Staged:
    """The file that one parameter of a job stands for.

    :param taken: paths that other files of the job have already.
    :param path: where the file is to lie; else in a directory named after the parameter.
    :raises BadRequest: too large, or no URL that is accepted.
    """
    sha256 = None
    if parameter.upload is not None:
        if parameter.upload.size > kind.max_bytes:
            raise BadRequest(
                f"the file for parameter {kind.name} has {parameter.upload.size} bytes; "
                f"it accepts {kind.accepts()}"
            )
        source, name, sha256 = f"upload:{parameter.name}", parameter.value, parameter.upload.sha256
    else:
        source, _, fragment = read_url(kind, parameter.value).partition("#")
        name = unquote(urlsplit(source).path)
        if fragment:
            match = _CHECKSUM.fullmatch(fragment)
            if match is None:
                raise BadRequest(
                    f"the URL for parameter {kind.name} may end in #sha256= and 64 hex digits, "
                    f"not in {shown('#' + fragment)}"
                )
            sha256 = match[1].lower()
    if path is None:
        path = _free(f"{kind.name}/{safe_name(name)}", taken)
    return Staged(Input(path=path, source=source, sha256=sha256, max_bytes=kind.max_bytes))


def _free(path: str, taken: Collection[str]) -> str:
    folder, _, name = path.partition("/")
    number = 1
    while path in taken:
        number += 1
        path = f"{folder}/{number}-{name}"
    return path
