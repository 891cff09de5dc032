"""All templates of a server, loaded and checked before it starts.

Every mistake in every file is found in one go, each told with file and line, as compilers do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from job_templates.client_text import nearest, shown
from job_templates.template import Template
from job_templates.template_file import Problem, read_file
from uws_server.domain.errors import NotFound

SHIPPED = Path(__file__).with_name("data")


class TemplateErrors(Exception):
    """The templates have mistakes; ``problems`` are all of them, ``str()`` has one on each line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class Catalog:
    """The templates by name; iterates in the order of the names."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = dict(sorted(templates.items()))

    def get(self, name: str) -> Template:
        """The template of a service.

        :raises NotFound: there is no such service.
        """
        try:
            return self._templates[name]
        except KeyError:
            hint = nearest(name, list(self._templates))
            raise NotFound(f"there is no service {shown(name)}{hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._templates

    def __iter__(self) -> Iterator[Template]:
        return iter(self._templates.values())

    def __len__(self) -> int:
        return len(self._templates)


def load(directories: Sequence[Path] = (), shipped: bool = True) -> Catalog:
    """The shipped templates and those of the operator's directories.

    A template of the operator's takes the place of the shipped one of the same name.

    :raises TemplateErrors: with every mistake in every file.
    """
    catalog, problems = _load(directories, shipped)
    if problems:
        raise TemplateErrors(problems)
    return catalog


def check(directories: Sequence[Path] = (), shipped: bool = True) -> list[str]:
    """Every mistake, as ``FILE:LINE: sentence``; empty when `load` would succeed."""
    return [str(problem) for problem in _load(directories, shipped)[1]]


def _load(directories: Sequence[Path], shipped: bool) -> tuple[Catalog, list[Problem]]:
    problems: list[Problem] = []
    templates: dict[str, Template] = {}
    origin: dict[str, Path] = {}
    for directory in [*([SHIPPED] if shipped else []), *directories]:
        try:
            files = sorted(path for path in directory.iterdir() if path.suffix in {".yaml", ".yml"})
        except OSError as error:
            problems.append(Problem(str(directory), 1, f"the directory cannot be read: {error.strerror}"))
            continue
        for path in files:
            template, found = read_file(path)
            problems += found
            if template is None:
                continue
            before = origin.get(template.name)
            if before is not None and before.parent != SHIPPED:
                problems.append(
                    Problem(str(path), 1, f"service {template.name!r} is made by {before} already")
                )
            templates[template.name] = template
            origin[template.name] = path
    return Catalog(templates), problems
