"""Bounds on what a notebook keeps of its own output, kept as the messages arrive.

A cell may print for hours. What it printed first and last is kept, the gap is marked, and the
rest is in the log as far as the log goes. Sizes are in characters.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any

MIB = 1024**2
CELL_TEXT = 1 * MIB  # what stdout and stderr of one cell may keep, half of it head, half tail
LEAST_CELL_TEXT = 4096  # what a cell may keep when those before it took everything
ALL_TEXT = 32 * MIB
ONE_OUTPUT = 16 * MIB  # one figure, table or other rich output
ALL_OUTPUTS = 96 * MIB
OUTPUTS_OF_CELL = 1000
TRACEBACK = 256 * 1024
ONE_PRINT = 16 * MIB  # bytes of one message; of a longer one the middle is never decoded

Node = dict[str, Any]


class _Stream:
    """One stream output of a cell: its beginning, and once the beginning is full, a ring."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._kept = 0  # in the tail
        self._dropped = 0

    @property
    def whole(self) -> bool:
        return not self._tail and not self._dropped

    def add(self, text: str) -> None:
        self._head.append(text)

    def add_to_tail(self, text: str, limit: int) -> None:
        if len(text) > limit:
            self._dropped += len(text) - limit
            text = text[len(text) - limit :]
        self._tail.append(text)
        self._kept += len(text)
        while self._kept > limit:
            over = self._kept - limit
            first = self._tail.popleft()
            if len(first) > over:
                self._tail.appendleft(first[over:])
            gone = min(over, len(first))
            self._kept -= gone
            self._dropped += gone
            if len(self._tail) > 1 and len(self._tail[0]) < 4096:  # many small pieces: make them larger
                self._tail.appendleft(self._tail.popleft() + self._tail.popleft())

    def write(self) -> None:
        mark = f"\n[… {self._dropped} characters left out here …]\n" if self._dropped else ""
        text = "".join([*self._head, mark, *self._tail])
        if self.whole:
            self._head = [text]
        self.node["text"] = text


class OutputBounds:
    """Decides which of a notebook's outputs are kept. `begin` is called before each cell."""

    def __init__(self, new_output: Callable[..., Node]) -> None:
        self._new_output = new_output  # nbformat's, handed in so that this module stays light
        self._all_text = ALL_TEXT
        self._all_rich = ALL_OUTPUTS
        self._open: list[_Stream] = []
        self._left = self._limit = 0
        self._skipped: _Stream | None = None
        self._skips = 0

    def begin(self) -> None:
        """A new cell starts."""
        self.write()
        self._all_text -= sum(len(stream.node["text"]) for stream in self._open)
        self._open = []
        self._skipped, self._skips = None, 0
        self._limit = self._left = max(LEAST_CELL_TEXT, min(CELL_TEXT, self._all_text)) // 2

    def cleared(self, outputs: list[Node]) -> None:
        """The cell's outputs so far are about to be thrown away, on its own wish."""
        self._all_rich += sum(size_of(out.get("data")) for out in outputs)
        self._open = []
        self._skipped, self._skips = None, 0
        self._left = self._limit

    def stream(self, outputs: list[Node], name: str, text: str) -> None:
        """Take in what the cell printed."""
        last = self._open[-1] if self._open else None
        if last is not None and (last is self._skipped or not outputs or outputs[-1] is not last.node):
            last = None
        follows = last is not None and last.node["name"] == name
        head = text[: self._left] if follows or len(outputs) < OUTPUTS_OF_CELL else ""
        if head:
            if last is None or not follows or not last.whole:
                last = self._opened(outputs, name)
            last.add(head)
            self._left -= len(head)
            text = text[len(head) :]
        if text:
            same = (one for one in reversed(self._open) if one.node["name"] == name)
            late = next((one for one in same if one is not self._skipped), None)
            (late or self._opened(outputs, name)).add_to_tail(text, self._limit)

    def _opened(self, outputs: list[Node], name: str) -> _Stream:
        stream = _Stream(self._new_output("stream", name=name, text=""))
        outputs.append(stream.node)
        self._open.append(stream)
        return stream

    def full(self, outputs: list[Node]) -> bool:
        """True, and a mark set, when the cell has so many outputs that no other is kept."""
        if len(outputs) < OUTPUTS_OF_CELL:
            return False
        if self._skipped is None:
            self._skipped = self._opened(outputs, "stderr")
        self._skips += 1
        return True

    def trim(self, kind: str, content: dict[str, Any]) -> None:
        """Replace what is too large in the content of a message of the given kind."""
        if kind == "error":
            content["evalue"] = str(content.get("evalue", ""))[:TRACEBACK]
            lines = content.get("traceback") or []
            if size_of(lines) > TRACEBACK:
                content["traceback"] = ["[… the beginning was left out …]", "\n".join(lines)[-TRACEBACK:]]
        elif kind in ("display_data", "execute_result", "update_display_data"):
            size = size_of(content.get("data"))
            if size > min(ONE_OUTPUT, self._all_rich):
                note = f"[an output of {size / 1e6:.1f} MB was left out: too large for the notebook]"
                content["data"], content["metadata"] = {"text/plain": note}, {}
            elif kind != "update_display_data":  # which takes the place of one that was counted
                self._all_rich -= size

    def write(self) -> None:
        """Put the texts into their outputs, as a save needs them."""
        for stream in self._open:
            if stream is self._skipped:
                stream.node["text"] = f"[{self._skips} further outputs of this cell were left out]\n"
            else:
                stream.write()


_PRINTED = re.compile(rb'\{"name": ?"(stdout|stderr)", ?"text": ?"')


def unpack(frame: Any) -> Any:
    """One part of a kernel's message, from JSON.

    A kernel sends what one call prints as one message, however long. Decoding a gigabyte takes three,
    so the middle of such a text is cut out beforehand.
    """
    if len(frame) > ONE_PRINT:
        view = memoryview(frame)
        start = _PRINTED.match(bytes(view[:64]))
        if start is not None and bytes(view[-2:]) == b'"}':
            half = ONE_PRINT // 4
            body = view[start.end() : -2]
            gap = len(body) - 2 * half
            mark = f"\n[… {gap} bytes left out here …]\n"
            text = _piece(bytes(body[:half]), 1) + mark + _piece(bytes(body[-half:]), 0)
            return {"name": start[1].decode(), "text": text}
    return json.loads(bytes(frame))


def _piece(raw: bytes, end: int) -> str:
    """The text of a part of a JSON string; its cut `end` (1: the last) may split a character or escape."""
    text = raw.decode(errors="ignore")
    for cut in range(min(13, len(text))):  # the longest is a pair of \\uXXXX
        part = text[: len(text) - cut] if end else text[cut:]
        try:
            value: str = json.loads(f'"{part}"', strict=False)
        except ValueError:
            continue
        return value
    return ""


def size_of(value: Any) -> int:
    """About how many characters `value` takes as JSON."""
    total, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str | bytes):
            total += len(one)
        elif isinstance(one, dict):
            rest += one.keys()
            rest += one.values()
        elif isinstance(one, list | tuple):
            rest += one
        else:
            total += 8
    return total
