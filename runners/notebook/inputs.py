"""What the program is given: the file of the notebook, and the parameters for it."""

from __future__ import annotations

import json
from keyword import iskeyword
from pathlib import Path
from typing import Any

from job_templates.notebook import MAX_BYTES, read_notebook
from job_templates.notebook_parameters import parameters_of
from job_templates.notebook_values import check_required, from_text
from runners.notebook.end import Exit, NotebookFailed
from uws_server.domain.errors import BadRequest

PARAMETERS_BYTES = 16 * 1024**2


def load_notebook(path: Path) -> dict[str, Any]:
    """The notebook of a file.

    :raises NotebookFailed: it cannot be read, or is no notebook of format 4.
    """
    try:
        with path.open("rb") as file:
            return read_notebook(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise NotebookFailed(Exit.NOT_A_NOTEBOOK, f"The notebook cannot be read: {error.strerror}") from error
    except ValueError as error:
        text = str(error)
        raise NotebookFailed(Exit.NOT_A_NOTEBOOK, text[:1].upper() + text[1:]) from error


def load_parameters(path: Path | None) -> dict[str, Any]:
    """The parameters of a JSON file; none without a file.

    :raises NotebookFailed: no object of names and values.
    """
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            parameters = json.loads(file.read(PARAMETERS_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise NotebookFailed(Exit.PARAMETERS, f"The parameters cannot be read: {error}") from error
    if not isinstance(parameters, dict):
        raise NotebookFailed(Exit.PARAMETERS, "The parameters are not an object of names and values")
    return parameters


def typed(notebook: dict[str, Any], parameters: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """The parameters, those that came as text typed as the notebook's parameters cell has them.

    :raises NotebookFailed: the notebook does not take them, or needs another.
    """
    if not texts:
        return parameters
    try:
        known = parameters_of(notebook)
        typed = {name: from_text(known, name, str(parameters.get(name, ""))) for name in texts}
        check_required(known, parameters)
    except (ValueError, BadRequest) as error:
        text = str(error)
        raise NotebookFailed(Exit.PARAMETERS, text[:1].upper() + text[1:]) from error
    return parameters | typed


def check_names(parameters: dict[str, Any], language: str) -> None:
    """See that each name can be a variable: papermill writes ``name = value`` without looking.

    :raises NotebookFailed: one cannot.
    """
    for name in parameters:
        if not name.isidentifier() or (language.casefold() == "python" and iskeyword(name)):
            raise NotebookFailed(Exit.PARAMETERS, f"{name!r} cannot be the name of a parameter")
