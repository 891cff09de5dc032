"""What a notebook keeps of its output: head and tail of what it prints, within bounds."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.notebook import outputs
from runners.notebook.end import plain, sentence
from runners.notebook.outputs import OutputBounds, size_of, unpack


def new_output(output_type: str, **fields: Any) -> dict[str, Any]:
    return {"output_type": output_type, **fields}


def printed(chunks: list[tuple[str, str]]) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    bounds = OutputBounds(new_output)
    bounds.begin()
    for name, text in chunks:
        bounds.stream(outputs, name, text)
    bounds.write()
    bounds.write()  # saving twice changes nothing
    return outputs


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=50)), max_size=30))
def test_little_output_is_kept_whole_and_in_order(chunks: list[tuple[str, str]]) -> None:
    outputs = printed(chunks)
    assert "".join(o["text"] for o in outputs) == "".join(text for _, text in chunks)
    for name in ("stdout", "stderr"):
        kept = "".join(o["text"] for o in outputs if o["name"] == name)
        assert kept == "".join(text for which, text in chunks if which == name)
    names = [o["name"] for o in outputs]
    assert all(a != b for a, b in pairwise(names))  # what follows itself is one output


@pytest.mark.covers("3:bad-prints")
@pytest.mark.parametrize("size", [1, 7, 5000, 3_000_000])
def test_much_output_keeps_its_head_and_tail_and_says_what_is_missing(size: int) -> None:
    text = "".join(f"{i:07d}\n" for i in range(750_000))
    text = text if size > 7 else text[:2_000_000]
    (output,) = printed([("stdout", text[i : i + size]) for i in range(0, len(text), size)])
    head, gap, tail = output["text"].partition("\n[… ")
    dropped, _, tail = tail.partition(" characters left out here …]\n")
    assert gap
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + int(dropped) + len(tail) == len(text)
    assert len(tail) == len(head) == outputs.CELL_TEXT // 2


def test_all_cells_together_are_bounded_and_each_keeps_a_little() -> None:
    bounds = OutputBounds(new_output)
    cells: list[list[dict[str, Any]]] = []
    for _ in range(60):
        bounds.begin()
        cells.append([])
        bounds.stream(cells[-1], "stdout", "x" * 5_000_000)
    bounds.write()
    sizes = [size_of([o["text"] for o in cell]) for cell in cells]
    assert sum(sizes) < outputs.ALL_TEXT + 2 * outputs.CELL_TEXT
    assert min(sizes) >= outputs.LEAST_CELL_TEXT


def test_a_cell_that_clears_its_output_starts_afresh() -> None:
    bounds = OutputBounds(new_output)
    outputs: list[dict[str, Any]] = []
    bounds.begin()
    for _ in range(5):
        bounds.cleared(outputs)
        outputs.clear()
        bounds.stream(outputs, "stdout", "y" * 500_000)
    bounds.write()
    assert [o["text"] for o in outputs] == ["y" * 500_000]


def test_rich_outputs_share_a_bound_and_updates_do_not_count_again() -> None:
    bounds = OutputBounds(new_output)
    kept = 0
    for _ in range(20):
        content = {"data": {"image/png": "A" * 10_000_000}, "metadata": {}}
        bounds.trim("display_data", content)
        kept += "image/png" in content["data"]
    assert kept == outputs.ALL_OUTPUTS // 10_000_009
    small = {"data": {"text/plain": "x" * 10}, "metadata": {}}
    for _ in range(100_000):
        bounds.trim("update_display_data", small)
    assert small["data"] == {"text/plain": "x" * 10}


def test_a_long_print_is_cut_before_it_is_decoded() -> None:
    text = 'é\n"\\😀' * 5_000_000
    whole = unpack(json.dumps({"name": "stderr", "text": text}, ensure_ascii=False).encode())
    escaped = unpack(json.dumps({"name": "stdout", "text": text}, separators=(",", ":")).encode())
    for content, name in ((whole, "stderr"), (escaped, "stdout")):
        head, _, tail = content["text"].partition("\n[… ")
        assert content["name"] == name
        assert len(head) > 100_000
        assert text.startswith(head)
        assert text.endswith(tail.partition("…]\n")[2][10:])
        assert len(content["text"]) < outputs.ONE_PRINT
    other = {"data": {"text/plain": "z" * 20_000_000}}
    assert unpack(memoryview(json.dumps(other).encode())) == other


@given(st.text())
def test_a_sentence_is_one_printable_line(text: str) -> None:
    line = sentence("x" + text)
    assert len(line) <= 300
    assert "\n" not in line
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in line)
    assert "\x1b" not in plain(text)


def test_colours_are_taken_out() -> None:
    assert plain("\x1b[0;31mKeyError\x1b[0m: \x1b]0;title\x07x") == "KeyError: x"
