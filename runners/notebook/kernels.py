"""Which kernel a notebook is run in: the one that it names, else another of the same language."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from job_templates.notebook import notebook_language
from runners.notebook.end import Exit, NotebookFailed

logger = logging.getLogger("runners.notebook")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installed kernel: its name and the language that it says it speaks."""

    name: str
    language: str


def choose_kernel(notebook: dict[str, Any], wanted: str | None = None) -> Kernel:
    """The kernel to run `notebook` in.

    `wanted` is taken or refused, as somebody asked for just that one. A notebook that names neither
    a kernel nor a language is taken for Python, as Jupyter does.

    :raises NotebookFailed: none fits; the message names what was wanted and what there is.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    specs = KernelSpecManager().get_all_specs()
    installed = {name: Kernel(name, str(one["spec"].get("language", ""))) for name, one in specs.items()}
    if wanted is not None:
        name, language = wanted, ""
    else:
        block = notebook["metadata"].get("kernelspec")
        named = block.get("name") if isinstance(block, dict) else None
        name, language = (named if isinstance(named, str) else ""), notebook_language(notebook)
        if not name and not language:
            language = "python"
    if name in installed:
        return installed[name]
    # 'python3' first, then by name, so that the choice is always the same
    for candidate in sorted(installed.values(), key=lambda one: (one.name != "python3", one.name)):
        if language and candidate.language.casefold() == language.casefold():
            if name:
                text = "kernel %s is not installed; using %s, which speaks %s too"
                logger.warning(text, name, candidate.name, language)
            return candidate
    asked = f"the kernel {name!r}" if name else "a kernel"
    speaks = f" for {language}" if language else ""
    have = ", ".join(f"{one.name} ({one.language})" for one in installed.values()) or "none"
    message = f"The notebook needs {asked}{speaks}, which is not installed here; installed: {have}"
    raise NotebookFailed(Exit.NO_KERNEL, message)
