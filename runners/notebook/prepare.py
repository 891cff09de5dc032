"""The notebook before it is run: as nbformat's node, with papermill's metadata and its cell of parameters."""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

import nbformat as untyped_nbformat
from papermill.exceptions import PapermillException
from papermill.execute import remove_error_markers
from papermill.parameterize import parameterize_notebook
from papermill.version import version as papermill_version

from runners.notebook.end import Exit, NotebookFailed

nbformat: Any = untyped_nbformat  # it has types for a part of itself only

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def prepare(notebook: dict[str, Any], name: str) -> Any:
    """The notebook as nbformat's node in the newest format, with the metadata papermill expects.

    :raises NotebookFailed: nbformat cannot make sense of it.
    """
    try:
        node = nbformat.from_dict(notebook)
        # each cell is known by its place in the file that its author sees; parameters are injected later
        for number, cell in enumerate(node.cells, 1):
            cell.metadata.setdefault("tags", [])
            cell.metadata["papermill"] = {"number": number}
        node = nbformat.v4.upgrade(node)
        _name_cells(node)
    except Exception as error:
        raise NotebookFailed(Exit.NOT_A_NOTEBOOK, f"The notebook cannot be used: {error}") from error
    node = remove_error_markers(node)
    node.metadata["papermill"] = {
        "default_parameters": {},
        "parameters": {},
        "environment_variables": {},
        "version": papermill_version,
        "input_path": name,
        "output_path": "executed.ipynb",
    }
    return node


def _name_cells(node: Any) -> None:
    """Give each cell an id that is valid and its own; readers refuse a notebook of format 4.5 without."""
    seen: set[str] = set()
    for cell in node.cells:
        mine = cell.get("id")
        if not isinstance(mine, str) or not _ID.fullmatch(mine) or mine in seen:
            cell["id"] = uuid.uuid4().hex[:8]
        seen.add(cell["id"])


def inject(node: Any, parameters: dict[str, Any], kernel: str, language: str) -> Any:
    """`node` with papermill's cell of parameters behind its own.

    :raises NotebookFailed: papermill cannot write such parameters in the notebook's language.
    """
    if not parameters:
        return node
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of a missing tag, which is no fault
    try:
        return parameterize_notebook(node, parameters, kernel_name=kernel, language=language)
    except (PapermillException, NotImplementedError) as error:
        message = f"Parameters cannot be given to a notebook in {language}: {error}"
        raise NotebookFailed(Exit.PARAMETERS, message) from error
