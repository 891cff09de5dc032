"""Which parameters a notebook takes, read from its parameters cell without running it.

This runs in the web process, on bytes that anybody may have sent. Nothing is executed and no
kernel is started: Python source is parsed, never evaluated. ``papermill.inspect_notebook`` would
give the same names, but importing it costs 0.55 s and 25 MB in every web process (measured; this
module costs nothing), it validates with a JSON schema of unbounded cost, splits Python at ``=``
signs line by line (``x = dict(a=1)`` is lost), and infers a type from an annotation only.

The cell that counts is the first one tagged ``parameters``, as papermill has it. A parameter is a
plain name that this cell assigns. Its type comes from its annotation, else from a ``# type:``
comment, else from its default where that is a literal.
"""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from job_templates.notebook import notebook_language, read_notebook

MAX_PARAMETERS = 1000
MAX_SOURCE = 64 * 1024
"""Length of the longest parameters cell that is read, in characters."""

PythonType = Literal["int", "float", "str", "bool", "list", "dict", "any"]

_ANNOTATIONS: dict[str, PythonType] = {
    "int": "int",
    "float": "float",
    "str": "str",
    "bool": "bool",
    "list": "list",
    "List": "list",
    "Sequence": "list",
    "tuple": "list",
    "Tuple": "list",
    "dict": "dict",
    "Dict": "dict",
    "Mapping": "dict",
    "Path": "str",
}

_UNKNOWN = object()


@dataclass(frozen=True, slots=True)
class NotebookParameter:
    """One parameter of a notebook.

    ``default`` is a JSON value, or None where the default is ``None`` or no literal; ``text`` is
    the default as the notebook writes it, '' for a bare annotation (``x: int``), which is
    ``required``. ``help`` is the comment behind the assignment. A value of type ``float`` may be
    given as a whole number; ``any`` takes every JSON value, and a ``nullable`` parameter null.
    """

    name: str
    type: PythonType
    default: Any = None
    help: str = ""
    text: str = ""
    required: bool = False
    nullable: bool = False


def read_parameters(content: bytes) -> tuple[NotebookParameter, ...] | None:
    """The parameters of a notebook's file, as `parameters_of`.

    :raises ValueError: no notebook, or its parameters cell is no Python; one sentence.
    """
    return parameters_of(read_notebook(content))


def parameters_of(notebook: dict[str, Any]) -> tuple[NotebookParameter, ...] | None:
    """The parameters that a notebook (of `read_notebook`) takes, in the order in which its cell names them.

    Empty if it has no cell tagged ``parameters``; None if it has one in a language that cannot be
    read here, so that any name must be accepted (papermill reads none but Python either).

    :raises ValueError: its parameters cell is no Python; one sentence.
    """
    cell = parameters_cell(notebook)
    if cell is None:
        return ()
    language = notebook_language(notebook).casefold()
    kernel = notebook["metadata"].get("kernelspec")
    name = kernel.get("name") if isinstance(kernel, dict) else None
    if language not in ("", "python") or (not language and name and not str(name).startswith("python")):
        return None
    return _python_parameters(cell["source"])


def parameters_cell(notebook: dict[str, Any]) -> dict[str, Any] | None:
    """The code cell that papermill takes for the parameters cell, if there is one."""
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return cell if cell["cell_type"] == "code" else None
    return None


def _python_parameters(source: str) -> tuple[NotebookParameter, ...]:
    if len(source) > MAX_SOURCE:
        raise ValueError(
            f"the parameters cell has {len(source)} characters; at most {MAX_SOURCE} are accepted"
        )
    # Lines that IPython takes for itself (%matplotlib, !ls) are no Python.
    lines = [
        "#" if line.lstrip()[:1] in ("%", "!") else line
        for line in io.StringIO(source, newline=None).read().split("\n")
    ]
    source = "\n".join(lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a user's string is not our business
            tree = ast.parse(source)
    except (RecursionError, MemoryError):
        raise ValueError("the parameters cell is nested too deeply") from None
    except SyntaxError as error:
        raise ValueError(f"the parameters cell is not valid Python (line {error.lineno or 1})") from None
    except ValueError:  # a NUL character
        raise ValueError("the parameters cell is not valid Python") from None
    comments = _comments(source)
    assigned: dict[str, tuple[ast.expr | None, ast.expr | None, str]] = {}
    for statement in tree.body:
        for name, annotation, value in _assignments(statement):
            assigned.pop(name, None)  # the last assignment is the one that holds
            assigned[name] = annotation, value, comments.get(statement.end_lineno or 0, "")
    if len(assigned) > MAX_PARAMETERS:
        raise ValueError(
            f"the parameters cell has {len(assigned)} parameters; at most {MAX_PARAMETERS} are accepted"
        )
    # ``a = b = c = …`` names one value often: each value is looked at once, or the work would be quadratic
    values = {id(value): value for _, value, _ in assigned.values() if value is not None}
    segments = [line.encode() for line in lines]
    defaults = {key: (_literal(value), _text(value, segments)) for key, value in values.items()}
    return tuple(
        _parameter(name, annotation, defaults.get(id(value)) if value is not None else None, comment)
        for name, (annotation, value, comment) in assigned.items()
    )


def _text(node: ast.expr, lines: list[bytes]) -> str:
    """The source of an expression, cut off at 1000 characters (`ast` counts columns in bytes)."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    if first == last:
        part = lines[first][node.col_offset : node.end_col_offset]
    else:
        part = b"\n".join(
            [lines[first][node.col_offset :], *lines[first + 1 : last], lines[last][: node.end_col_offset]]
        )
    text = part.decode(errors="replace")
    return text if len(text) <= 1000 else text[:999] + "…"


def _assignments(statement: ast.stmt) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, annotation and value for every plain name that a statement assigns."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id, statement.annotation, statement.value
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, None, statement.value
            elif (
                isinstance(target, ast.Tuple | ast.List)
                and isinstance(statement.value, ast.Tuple | ast.List)
                and len(target.elts) == len(statement.value.elts)
            ):
                for one, value in zip(target.elts, statement.value.elts, strict=True):
                    if isinstance(one, ast.Name):
                        yield one.id, None, value


def _comments(source: str) -> dict[int, str]:
    """The comment on each line that has one, without its ``#``."""
    found: dict[int, str] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string.lstrip("#").strip()
    except (tokenize.TokenError, SyntaxError, RecursionError):
        pass  # help texts are a kindness; what was found so far stays
    return found


def _parameter(
    name: str, annotation: ast.expr | None, value: tuple[Any, str] | None, comment: str
) -> NotebookParameter:
    default, text = value or (_UNKNOWN, "")
    declared: PythonType | None = None
    nullable = default is None
    if comment.startswith("type:"):
        words = comment.removeprefix("type:").strip().split(maxsplit=1)
        comment = words[1].lstrip("# ") if len(words) > 1 else ""
        if annotation is None and words:
            annotation = _expression(words[0])
    if annotation is not None:
        declared, optional = _annotated(annotation)
        nullable = nullable or optional
    return NotebookParameter(
        name=name,
        type=declared or _type_of(default),
        default=None if default is _UNKNOWN else default,
        help=" ".join(comment.split())[:500],
        text=text,
        required=value is None,
        nullable=nullable,
    )


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _annotated(annotation: ast.expr) -> tuple[PythonType | None, bool]:
    """The type an annotation means to us, and whether it lets None in."""
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str) and len(annotation.value) <= 200:
            inner = _expression(annotation.value)
            # a string within the string is nobody's annotation, and would recurse
            return (None, False) if inner is None or isinstance(inner, ast.Constant) else _annotated(inner)
        return None, annotation.value is None
    if isinstance(annotation, ast.Name | ast.Attribute):
        return _ANNOTATIONS.get(_word(annotation), "any"), _word(annotation) in ("Any", "object")
    if isinstance(annotation, ast.Subscript):
        inside = annotation.slice
        if _word(annotation.value) == "Optional":
            return "any" if isinstance(inside, ast.Tuple) else _annotated(inside)[0], True
        return _ANNOTATIONS.get(_word(annotation.value), "any"), False
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        sides = [side for side in (annotation.left, annotation.right) if not _is_none(side)]
        if len(sides) == 1:
            return _annotated(sides[0])[0], True
    return "any", True


def _word(node: ast.expr) -> str:
    """``List`` for both ``List`` and ``typing.List``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _literal(node: ast.expr) -> Any:
    """The JSON value of a literal, or `_UNKNOWN`."""
    try:
        value = ast.literal_eval(node)
        value = _json_value(value)
        json.dumps(value).encode()
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
        return _UNKNOWN
    return value


def _json_value(value: Any) -> Any:
    """`value` as JSON has it: tuples are lists.

    :raises ValueError: JSON cannot say it.
    """
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_json_value(key): _json_value(one) for key, one in value.items()}
    if isinstance(value, str):
        value.encode()  # a lone surrogate is no text
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("no JSON value")


def _type_of(default: Any) -> PythonType:
    if default is None or default is _UNKNOWN:
        return "any"
    # bool before int, which it also is
    names: tuple[tuple[type, PythonType], ...] = (
        (bool, "bool"),
        (int, "int"),
        (float, "float"),
        (str, "str"),
        (list, "list"),
        (dict, "dict"),
    )
    return next(name for kind, name in names if isinstance(default, kind))
