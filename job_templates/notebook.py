"""Reading a Jupyter notebook without running it: whether it is one, and what it is written in.

This runs in the web process, on bytes that anybody may have sent.
"""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 64 * 1024**2
"""A notebook larger than this (in bytes) is refused; Jupyter itself is unusable well before."""

MAX_CELLS = 10_000


def read_notebook(content: bytes) -> dict[str, Any]:
    """The notebook's JSON object, with just as much checked as everything after this relies on.

    In the result every cell has a ``cell_type``, a ``metadata`` object and its ``source`` as one
    string; ``metadata`` is an object.

    :raises ValueError: the content is no notebook of format 4; the message is one sentence.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"the notebook has {len(content)} bytes; at most {MAX_BYTES} are accepted")
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("the notebook is not UTF-8 text") from None
    except RecursionError:
        raise ValueError("the notebook is nested too deeply") from None
    except ValueError as error:  # bad JSON, or a number with too many digits
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"the notebook is not valid JSON{where}") from None
    if not isinstance(notebook, dict) or "nbformat" not in notebook:
        raise ValueError("the file is not a Jupyter notebook: it has no 'nbformat'")
    version = notebook["nbformat"]
    if type(version) is not int or version != 4:
        shown = version if type(version) is int and abs(version) < 1000 else "?"
        raise ValueError(f"the notebook has format {shown}; save it in format 4 (Jupyter does so since 2015)")
    if not isinstance(notebook.setdefault("metadata", {}), dict):
        raise ValueError("the notebook's metadata are not an object")
    minor = notebook.setdefault("nbformat_minor", 0)
    if type(minor) is not int or not 0 <= minor < 1000:
        raise ValueError("the notebook's 'nbformat_minor' is not a small whole number")
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise ValueError("the notebook has no list of cells")
    if len(cells) > MAX_CELLS:
        raise ValueError(f"the notebook has {len(cells)} cells; at most {MAX_CELLS} are accepted")
    for number, cell in enumerate(cells, 1):
        _check_cell(cell, number)
    return notebook


def _check_cell(cell: Any, number: int) -> None:
    """See that one cell has the parts that a cell must have, and join its source lines."""
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        raise ValueError(f"cell {number} of the notebook is neither code nor markdown nor raw text")
    source = cell.get("source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise ValueError(f"cell {number} of the notebook has no source text")
    cell["source"] = source
    metadata = cell.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"the metadata of cell {number} of the notebook are not an object")
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"the tags of cell {number} of the notebook are not a list of words")


def notebook_language(notebook: dict[str, Any]) -> str:
    """The programming language a notebook (of `read_notebook`) says it is in, '' if it does not."""
    for part, key in (("kernelspec", "language"), ("language_info", "name")):
        block = notebook["metadata"].get(part)
        if isinstance(block, dict) and isinstance(block.get(key), str) and block[key].strip():
            return str(block[key]).strip()
    return ""
