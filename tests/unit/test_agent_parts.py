"""The agent's parts that need no server: patterns, ids, media types, addresses, pace, hints."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from email.utils import formatdate
from http.client import HTTPResponse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.agent.attempt_dir import Access, NotRegular, open_regular
from runners.agent.connections import Answer, Broken, Connections
from runners.agent.deadline import Deadline, DeadlinePassed, backoff
from runners.agent.download import Never, recorded, shown
from runners.agent.finish import user_error
from runners.agent.follow import last_progress
from runners.agent.logs import pace
from runners.agent.memory import Memory
from runners.agent.stage_out import DEEPEST, Changed, Reading, harvest, matches, media_type
from runners.agent.web_sources import refuse_address
from tests.waiting import PATIENCE
from uws_server.domain.runspec import AttemptLimits, Output

# Patterns -----------------------------------------------------------------------------------------


@pytest.mark.covers("3:templates-outputs")
@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "d/a.csv", False),
        ("*.csv", "a.csv.gz", False),
        ("d/*", "d/a", True),
        ("d/*", "d/e/a", False),
        ("**", "a", True),
        ("**", "d/e/a", True),
        ("**/*.fits", "a.fits", True),
        ("**/*.fits", "d/e/a.fits", True),
        ("d/**", "d/e/a", True),
        ("d/**", "d", False),
        ("d/**/x", "d/x", True),
        ("d/**/x", "d/e/f/x", True),
        ("d/**/x", "e/x", False),
        ("**/d/**/x", "a/d/b/d/c/x", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab]*", "bx", True),
        ("[!ab]*", "bx", False),
        ("*", ".hidden", False),
        ("**", ".git/config", False),
        ("**", "d/.hidden", False),
        (".*", ".hidden", True),
        (".git/**", ".git/config", True),
        ("A.csv", "a.csv", False),
        ("a+b(c).txt", "a+b(c).txt", True),
        ("ü*", "über.txt", True),
        ("", "a", False),
    ],
)
def test_patterns(pattern: str, path: str, wanted: bool) -> None:
    assert matches(path, pattern) is wanted


@given(
    st.lists(st.sampled_from(["**", "*", "a", "b*", "*b", "?"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab", "bb"]), min_size=1, max_size=6),
)
def test_patterns_are_what_the_regular_expression_says(parts: list[str], names: list[str]) -> None:
    words = {"*": "[^/]+", "a": "a", "b*": "b[^/]*", "*b": "[^/]*b", "?": "[^/]"}
    expression = "".join(("(?:[^/]+/)*" if part == "**" else words[part] + "/") for part in parts[:-1]) + (
        "(?:[^/]+/)*[^/]+" if parts[-1] == "**" else words[parts[-1]]
    )
    path = "/".join(names)
    assert matches(path, "/".join(parts)) == bool(re.fullmatch(expression, path))


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "**/" * 60 + "b", "[" * 200, "*" * 200 + "b"])
def test_no_pattern_is_slow(pattern: str) -> None:
    start = time.process_time()
    assert not matches("/".join(["a" * 200] * 30), pattern)
    assert time.process_time() - start < 20


# Results ------------------------------------------------------------------------------------------


def tree(top: Path, *names: str) -> int:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    return os.open(top, os.O_RDONLY)


@pytest.mark.covers("3:results-single")
def test_ids(tmp_path: Path) -> None:
    root = tree(tmp_path, "one.csv", "p/a b.png", "p/a_b.png", "p/ü.png", "stdout", "x/1", "x.1")
    outputs = [Output("result", "*.csv"), Output("p", "p/*"), Output("stdout", "stdout"), Output("x", "**")]
    found = harvest(root, outputs, AttemptLimits())
    os.close(root)
    assert [(result.id, result.path) for result in found.results] == [
        ("result", "one.csv"),
        ("p.p.a_b.png", "p/a b.png"),
        ("p.p.a_b.png-2", "p/a_b.png"),
        ("p.p._.png", "p/ü.png"),
        ("stdout-2", "stdout"),
        ("x.x.1", "x/1"),
        ("x.x.1-2", "x.1"),
    ]


@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\0"), min_size=1, max_size=40
        )
    )
)
def test_ids_are_unique_and_plain(names: list[str]) -> None:
    taken = {"stdout", "stderr", "manifest"}
    from runners.agent.stage_out import _id

    ids = [_id(name, taken) for name in [*names, *names, "stdout", "manifest"]]
    assert len(set(ids)) == len(ids)
    assert not {"stdout", "stderr", "manifest"} & set(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,140}", one) for one in ids)


@pytest.mark.covers("3:results-media-type")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.fits", "application/fits"),
        ("a.FITS", "application/fits"),
        ("a.fits.gz", "application/gzip"),
        ("a.fits.fz", "application/fits"),
        ("a.vot", "application/x-votable+xml"),
        ("d.csv/a", "application/octet-stream"),
        ("csv", "application/octet-stream"),
        ("a.csv", "text/csv"),
        ("a.parquet", "application/vnd.apache.parquet"),
        ("a.ipynb", "application/x-ipynb+json"),
        ("a.png", "image/png"),
        ("a.html", "text/html"),
        ("a.ecsv", "text/plain"),
        ("a.", "application/octet-stream"),
        ("a.exe", "application/octet-stream"),
    ],
)
def test_media_types(name: str, wanted: str) -> None:
    assert media_type(name) == wanted


def test_depth_is_bounded(tmp_path: Path) -> None:
    root = tree(tmp_path, "d/" * DEEPEST + "in", "e/" * (DEEPEST + 1) + "out")
    found = harvest(root, [Output("x", "**")], AttemptLimits())
    os.close(root)
    assert [result.path for result in found.results] == ["d/" * DEEPEST + "in"]
    assert "nested deeper" in found.notes[0]


def test_entries_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.agent.stage_out.MOST_ENTRIES", 10)
    root = tree(tmp_path, *(f"{number:02}" for number in range(30)))
    found = harvest(root, [Output("x", "**")], AttemptLimits())
    os.close(root)
    assert len(found.results) == 10
    assert "more than 10 entries" in found.faults[0]


def test_notes_are_bounded(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}").symlink_to("/")
    root = os.open(tmp_path, os.O_RDONLY)
    found = harvest(root, [Output("x", "**")], AttemptLimits())
    os.close(root)
    assert len(found.notes) == 21
    assert found.notes[-1] == "and 80 more were passed over"


def test_a_name_that_a_store_s_lists_could_not_tell_is_passed_over(tmp_path: Path) -> None:
    root = tree(tmp_path, "good", "odd\ufffe")
    found = harvest(root, [Output("x", "**")], AttemptLimits())
    os.close(root)
    assert [result.path for result in found.results] == ["good"]
    assert "U+FFFE" in found.notes[0]


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    root = tree(tmp_path, *(f"{'d/' * depth}x" for depth in range(40)))
    (tmp_path / "link").symlink_to("d")
    harvest(root, [Output("x", "**")], AttemptLimits())
    with pytest.raises(OSError, match=r"regular|links"):
        Reading(root, "link")
    reading = Reading(root, "d/d/x")
    reading.close()
    os.close(root)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.covers("3:agent-outputs")
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(600_000))
    root = os.open(tmp_path, os.O_RDONLY)
    reading = Reading(root, "x")
    chunks = reading.chunks()
    next(chunks)
    os.truncate(tmp_path / "x", 300_000)
    with pytest.raises(Changed):
        list(chunks)
    assert reading.touched()
    reading.close()
    os.close(root)


@pytest.mark.covers("3:agent-outputs")
def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(1000))
    root = os.open(tmp_path, os.O_RDONLY)
    reading = Reading(root, "x")
    assert not reading.touched()
    with (tmp_path / "x").open("ab") as more:
        more.write(bytes(1000))
    chunks = reading.chunks()
    with pytest.raises(Changed):  # before the last of the bytes that were promised
        next(chunks)
    assert reading.touched()
    reading.close()
    os.close(root)


def test_only_regular_files_with_one_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "hard").hardlink_to(tmp_path / "file")
    (tmp_path / "soft").symlink_to("file")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    directory = os.open(tmp_path, os.O_RDONLY)
    for name in ("file", "hard", "soft", "directory", "pipe"):
        with pytest.raises(NotRegular):
            open_regular(directory, name)
    (tmp_path / "hard").unlink()
    os.close(open_regular(directory, "file"))
    os.close(directory)


# Sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "100.100.100.200",
        "10.1.2.3",
    ],
)
def test_refused_addresses(address: str) -> None:
    with pytest.raises(Never):
        refuse_address(address, ("10.0.0.0/8",))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.0.2.1", "10.1.2.3", "2001:db8::1"])
def test_addresses_that_jobs_may_reach(address: str) -> None:
    refuse_address(address)


def test_a_name_that_resolves_differently_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second time: every address that a look-up gives is checked, and then connected to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answers = [["127.0.0.1"], ["127.0.0.1", "169.254.169.254"]]

        def getaddrinfo(*_: object, **__: object) -> list[object]:
            found = answers.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        url = f"http://name.test:{port}/"
        connections = Connections(refuse_address)
        with pytest.raises(Broken, match="too long"):
            connections.ask("GET", url, {}, connect=5, silence=0.1)
        asked = listener.accept()[0]
        assert asked.recv(100).startswith(b"GET / HTTP/1.1\r\nHost: name.test:")
        asked.close()
        with pytest.raises(Never):
            connections.ask("GET", url, {}, connect=5, silence=0.1)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # not even connected
            listener.accept()
        assert answers == []


@pytest.mark.parametrize(
    ("url", "people", "manifest"),
    [
        ("https://a:b@h:1/p?q=1#f", "https://h:1/p", "https://h:1/p?q=1#f"),
        ("http://h/\x1b[1m", "http://h/?[1m", "http://h/\x1b[1m"),
        ("http://a@b@h/", "http://h/", "http://h/"),
        ("upload:x", "upload:x", "upload:x"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, people: str, manifest: str) -> None:
    assert shown(url) == people
    assert recorded(url) == manifest


def test_a_broken_url_is_shown() -> None:
    assert shown("http://a:b@[x/") == "a broken URL"


# Times and hints ----------------------------------------------------------------------------------


def test_the_pace_grows_from_a_quarter_second_to_half_a_minute() -> None:
    paces = [pace(seconds) for seconds in range(0, 10_000, 10)]
    assert paces == sorted(paces)
    assert 0.25 <= pace(0) < pace(300) < 0.4
    assert 15 <= pace(900) <= 16
    assert 30 <= pace(100_000_000) <= 30.25


def test_backoff_grows_and_is_bounded() -> None:
    assert all(0 < backoff(failures) <= 5 for failures in range(1, 2000))
    assert max(backoff(1) for _ in range(50)) <= 0.2
    assert min(backoff(9) for _ in range(50)) >= 2.5


def retry_after(header: str | None) -> float | None:
    """What an answer with that header asks for."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = "" if header is None else f"Retry-After: {header}\r\n"
        theirs.sendall(f"HTTP/1.1 503 Later\r\n{told}Content-Length: 0\r\n\r\n".encode())
        response = HTTPResponse(ours)
        response.begin()
        return Answer(response, lambda _: None).retry_after()


def test_retry_after() -> None:
    assert retry_after(None) is None
    assert retry_after("7") == 7
    assert retry_after("soon") is None
    assert retry_after(formatdate(0, usegmt=True)) == 0
    later = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert later is not None
    assert 55 < later <= 60


def test_a_deadline() -> None:
    deadline = Deadline()
    earlier = deadline.less(5)
    assert not deadline.near
    assert deadline.left() == earlier.left() == 3600
    deadline.pause(0.01)
    deadline.set(6)
    assert earlier.near
    assert 5 < deadline.left() <= 6
    assert 0 < earlier.left() <= 1
    deadline.set(4)
    assert deadline.left() > 0
    with pytest.raises(DeadlinePassed):
        earlier.left()
    with pytest.raises(DeadlinePassed):
        earlier.pause(1)
    start = time.monotonic()
    deadline.set(0.05)
    with pytest.raises(DeadlinePassed):
        deadline.pause(PATIENCE)
    assert time.monotonic() - start < PATIENCE / 2


@pytest.mark.covers("3:agent-progress")
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"1 2\n", (1, 2)),
        (b"1 2\n2 2\n", (2, 2)),
        (b"1 2\n2", (1, 2)),
        (b"0 5\n", (0, 5)),
        (b"", None),
        (b"1 2", None),
        (b"1 2\n\n", None),
        (b"3 2\n", None),
        (b"0 0\n", None),
        (b"-1 2\n", None),
        (b"1.0 2\n", None),
        (b"1 9999999999\n", None),
        ("١ ٢\n".encode(), None),
        (b"\xff 2\n", None),
        (b"x" * 4096, None),
    ],
)
def test_last_progress(text: bytes, wanted: tuple[int, int] | None) -> None:
    assert last_progress(text) == wanted


@given(st.binary(max_size=200))
def test_hints_never_raise(text: bytes) -> None:
    last_progress(text)
    user_error(text)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_an_error_hint_is_clean_or_nothing(value: object) -> None:
    for body in (value, {"message": value, "detail": value}):
        error = user_error(json.dumps(body).encode())
        if error is not None:
            assert 0 < len(error["message"]) <= 500
            assert error["message"].isprintable()
            assert set(error) == {"message", "detail"}


def test_an_error_hint_of_control_characters_is_nothing() -> None:
    assert user_error(b'{"message": "\\u001b \\u0000"}') is None


def test_access_ignores_what_it_does_not_know() -> None:
    access = Access.from_json('{"url": "u", "token": "t", "file_inputs": ["/d"], "newer": 1}')
    assert (access.url, access.token, list(access.file_inputs)) == ("u", "t", ["/d"])


def test_memory_starts_empty() -> None:
    assert Memory() == Memory({"stdout": (0, 0), "stderr": (0, 0)}, {}, done=False)
