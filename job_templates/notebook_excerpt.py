"""What the server needs of a large notebook, cut out by a process of its own.

Reading tens of megabytes of JSON takes seconds, in which a web process would answer nobody (63 MiB of
numbers: 1.6 s; apart from it, 0.04 s), and up to a hundred times their size in memory. Run as
``python -m job_templates.notebook_excerpt`` it reads a notebook from its standard input and writes the
excerpt; exit status 3 means that what it wrote is the sentence that says why there is none.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from typing import Any

from job_templates.notebook import MAX_BYTES, read_notebook
from job_templates.notebook_parameters import MAX_SOURCE, parameters_cell

REFUSED = 3
_MEMORY = 2 * 1024**3  # bytes; ten times what a notebook with large outputs takes
_PROCESSOR = 20  # s


def excerpt(content: bytes) -> bytes:
    """A notebook with nothing of this one but its language and its parameters cell.

    :raises ValueError: the content is no notebook of format 4; the message is one sentence.
    """
    notebook = read_notebook(content)
    cell = parameters_cell(notebook)
    if cell is not None and len(cell["source"]) > MAX_SOURCE:
        raise ValueError(
            f"the parameters cell has {len(cell['source'])} characters; at most {MAX_SOURCE} are accepted"
        )
    named = {}
    for part, keys in (("kernelspec", ("language", "name")), ("language_info", ("name",))):
        block = notebook["metadata"].get(part)
        if isinstance(block, dict):
            named[part] = {key: _short(block[key]) for key in keys if key in block}
    kept = (
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": cell["source"]}
        if cell
        else None
    )
    return json.dumps({"nbformat": 4, "metadata": named, "cells": [kept] if kept else []}).encode()


def _short(value: Any) -> Any:
    """A name or whatever stands in its place, without its length."""
    return value[:200] if isinstance(value, str) else value if isinstance(value, bool | int | float) else None


def main() -> int:
    """Read, and write; bounded in memory and time, whatever was sent."""
    gc.disable()  # looking for cycles among millions of lists takes most of the time, and there are none
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR, _PROCESSOR))
    try:
        text = excerpt(sys.stdin.buffer.read(MAX_BYTES + 1))
    except MemoryError:
        text, status = b"the notebook takes too much memory to be read", REFUSED
    except ValueError as error:
        text, status = str(error).encode(), REFUSED
    else:
        status = 0
    sys.stdout.buffer.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
