from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.conftest import Asked, Reply, Standin, Time
from uws_client.connection import Connection
from uws_client.documents import Result
from uws_client.downloads import Downloads, safe_parts, wanted
from uws_client.errors import Damaged, NotUws, Refused, Unreachable

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Stored:
    """Serves CONTENT by ranges and breaks off where it is told to, once each."""

    def __init__(self, *cuts: int, tag: str = '"t"', ranges: bool = True) -> None:
        self.cuts = list(cuts)
        self.tag = tag
        self.ranges = ranges

    def __call__(self, asked: Asked) -> Reply:
        said = asked.headers["Range"] if self.ranges else None
        start = int(said.removeprefix("bytes=").rstrip("-")) if said else 0
        headers = {"ETag": self.tag} if self.tag else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        cut = self.cuts.pop(0) if self.cuts else None
        return Reply(CONTENT[start:], 206 if start else 200, headers, cut)


def result_at(standin: Standin, result_id: str = "plot.png", *, sha256: str | None = None) -> Result:
    return Result(result_id, f"{standin.url}/r", len(CONTENT), "image/png", sha256)


def test_whole_and_checked(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    standin.on("GET", "/r", Stored())
    seen: list[tuple[int, int | None]] = []
    got = Downloads(connection, tmp_path / "new").fetch(
        result_at(standin, sha256=SHA256), lambda done, of: seen.append((done, of))
    )
    assert (got.path, got.size, got.sha256, got.checked) == (
        tmp_path / "new/plot.png",
        len(CONTENT),
        SHA256,
        True,
    )
    assert got.path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["plot.png"]


def test_taken_up_where_it_broke_off(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    standin.on("GET", "/r", Stored(300_000, 500_000))
    got = Downloads(connection, tmp_path).fetch(result_at(standin))
    assert got.path.read_bytes() == CONTENT
    assert not got.checked
    asked = [(a.headers["Range"], a.headers["If-Range"]) for a in standin.asked]
    assert asked == [(None, None), ("bytes=300000-", '"t"'), ("bytes=800000-", '"t"')]


@pytest.mark.parametrize(
    "stored", [Stored(300_000, tag=""), Stored(300_000, tag='W/"t"'), Stored(300_000, ranges=False)]
)
def test_begun_anew_where_the_rest_might_be_of_another(
    standin: Standin, connection: Connection, tmp_path: Path, stored: Stored
) -> None:
    standin.on("GET", "/r", stored)
    assert Downloads(connection, tmp_path).fetch(result_at(standin)).path.read_bytes() == CONTENT


def test_a_later_call_goes_on_when_the_checksum_is_known(
    standin: Standin, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "plot.png.part").write_bytes(CONTENT[:700_000])
    standin.on("GET", "/r", Stored())
    Downloads(connection, tmp_path).fetch(result_at(standin, sha256=SHA256))
    assert [asked.headers["Range"] for asked in standin.asked] == ["bytes=700000-"]
    assert (tmp_path / "plot.png").read_bytes() == CONTENT


def test_a_part_of_something_else_is_thrown_away(
    standin: Standin, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "plot.png.part").write_bytes(b"x" * 700_000)
    standin.on("GET", "/r", Stored())
    Downloads(connection, tmp_path).fetch(result_at(standin, sha256=SHA256))
    assert [asked.headers["Range"] for asked in standin.asked] == ["bytes=700000-", None]
    assert (tmp_path / "plot.png").read_bytes() == CONTENT


def test_lying_checksum(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    standin.on("GET", "/r", Stored())
    with pytest.raises(Damaged, match=f"{SHA256} and the server says {'0' * 64}"):
        Downloads(connection, tmp_path).fetch(result_at(standin, sha256="0" * 64))
    assert list(tmp_path.iterdir()) == []


def test_checksum_in_a_header(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    digest = base64.b64encode(hashlib.sha256(b"abc").digest()).decode()
    standin.on("GET", "/r", Reply(b"abc", headers={"Repr-Digest": f"sha-256=:{digest}:"}))
    assert Downloads(connection, tmp_path).fetch(result_at(standin)).checked
    standin.on("GET", "/r", Reply(b"abd", headers={"Digest": f"SHA-256={digest}"}))
    with pytest.raises(Damaged):
        Downloads(connection, tmp_path).fetch(result_at(standin, "other.png"))


def test_another_part_than_asked_for(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "plot.png.part").write_bytes(CONTENT[:700_000])
    standin.on(
        "GET", "/r", Reply(CONTENT[5:], 206, {"Content-Range": f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"})
    )
    with pytest.raises(Damaged, match="another part"):
        Downloads(connection, tmp_path).fetch(result_at(standin, sha256=SHA256))


def test_a_server_that_gives_less_than_the_rest(
    standin: Standin, connection: Connection, tmp_path: Path
) -> None:
    stored = Stored(300_000)

    def answer(asked: Asked) -> Reply:
        whole = stored(asked)
        if whole.status == 200:
            return whole
        start = int(asked.headers["Range"].removeprefix("bytes=").rstrip("-"))
        piece = CONTENT[start : start + 250_000]
        said = f"bytes {start}-{start + len(piece) - 1}/{len(CONTENT)}"
        return Reply(piece, 206, {"Content-Range": said, "ETag": '"t"'})

    standin.on("GET", "/r", answer)
    assert Downloads(connection, tmp_path).fetch(result_at(standin)).path.read_bytes() == CONTENT
    assert len(standin.asked) == 4


def test_busy_store_is_asked_again(
    standin: Standin, connection: Connection, fake_time: Time, tmp_path: Path
) -> None:
    standin.once_each("GET", "/r", Reply(b"", 503, {"Retry-After": "3"}), "abc")
    assert Downloads(connection, tmp_path).fetch(result_at(standin)).size == 3
    assert fake_time.slept == [3.0]


def test_given_up_when_nothing_comes(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    standin.on("GET", "/r", Reply(CONTENT, cut=0, headers={"ETag": '"t"'}))
    with pytest.raises(Unreachable):
        Downloads(connection, tmp_path).fetch(result_at(standin))
    assert 2 <= len(standin.asked) <= 6


def test_refusals_name_the_address(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="/r answered 404 Not Found: no such thing"):
        Downloads(connection, tmp_path).fetch(result_at(standin))
    with pytest.raises(NotUws, match="no http or https"):
        Downloads(connection, tmp_path).fetch(Result("r", "file:///etc/passwd"))


# -- names -------------------------------------------------------------------------------------------


@given(st.text(max_size=400) | st.from_regex(r"(\.\.?/|/|~|-|\.|C:\\){0,6}[a-z]{0,4}"))
def test_no_name_leads_out_of_the_directory(name: str) -> None:
    parts = safe_parts(name)
    assert parts
    path = Path("/d").joinpath(*parts)
    assert path.is_relative_to("/d")
    for part in parts:
        assert part not in {"", ".", ".."}
        assert part[0] not in ".-"
        assert not set(part) & set('/\\\0:*?"<>| ')
        assert part.isprintable()
        assert len(part.encode()) <= 120


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("plots/a.png", ("plots", "a.png")),
        ("../../etc/passwd", ("etc", "passwd")),
        ("/root/.ssh/authorized_keys", ("root", "ssh", "authorized_keys")),
        ("..\\..\\x", ("_.._x",)),
        ("a\0b\n", ("a_b_",)),
        ("--help", ("help",)),
        ("///", ("result",)),
        ("x" * 300 + ".fits", ("x" * 115 + ".fits",)),
        ("Übersicht 1.png", ("Übersicht_1.png",)),
    ],
)
def test_names(name: str, parts: tuple[str, ...]) -> None:
    assert safe_parts(name) == parts


def test_names_that_meet_are_told_apart(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    standin.on("GET", "/r", "abc")
    downloads = Downloads(connection, tmp_path)
    names = [downloads.fetch(result_at(standin, name)).path.name for name in ("A.png", "a.png", "../a.png")]
    assert names == ["A.png", "a-2.png", "a-3.png"]


@pytest.mark.parametrize(
    ("href", "media_type", "name"),
    [
        ("r", "image/png", "thing.png"),
        ("r", "application/x-ipynb+json; charset=utf-8", "thing.ipynb"),
        ("x/table.ecsv", "text/plain", "thing.ecsv"),
        ("r", None, "thing"),
    ],
)
def test_extension(
    standin: Standin, connection: Connection, tmp_path: Path, href: str, media_type: str | None, name: str
) -> None:
    standin.on("GET", f"/{href}", "abc")
    result = Result("thing", f"{standin.url}/{href}", None, media_type)
    assert Downloads(connection, tmp_path).fetch(result).path == tmp_path / name


@pytest.mark.parametrize(
    "said", ['inline; filename="table.ecsv"', "attachment; filename*=UTF-8''t%C3%A4ble.ecsv"]
)
def test_extension_of_the_name_that_the_server_gives(
    standin: Standin, connection: Connection, tmp_path: Path, said: str
) -> None:
    named = Reply(b"abc", headers={"Content-Disposition": said})
    standin.on("HEAD", "/r", named)
    standin.on("GET", "/r", named)
    result = Result("table", f"{standin.url}/r", None, "text/plain")
    assert Downloads(connection, tmp_path).fetch(result).path == tmp_path / "table.ecsv"


def test_a_link_in_the_directory_is_not_followed_out_of_it(
    standin: Standin, connection: Connection, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "plots").symlink_to(outside)
    (inside / "b.png.part").symlink_to(outside / "b")
    standin.on("GET", "/r", "abc")
    downloads = Downloads(connection, inside)
    with pytest.raises(Damaged, match="leads out"):
        downloads.fetch(result_at(standin, "plots/a.png"))
    assert downloads.fetch(result_at(standin, "b.png")).path.read_bytes() == b"abc"
    assert list(outside.iterdir()) == []


def test_files_that_are_there(standin: Standin, connection: Connection, tmp_path: Path) -> None:
    standin.on("GET", "/r", Stored())
    path = tmp_path / "plot.png"
    path.write_bytes(b"mine")
    with pytest.raises(Damaged, match="--overwrite"):
        Downloads(connection, tmp_path).fetch(result_at(standin, sha256=SHA256))
    assert path.read_bytes() == b"mine"
    Downloads(connection, tmp_path, overwrite=True).fetch(result_at(standin, sha256=SHA256))
    assert path.read_bytes() == CONTENT
    asked = len(standin.asked)
    assert Downloads(connection, tmp_path).fetch(result_at(standin, sha256=SHA256)).checked
    assert len(standin.asked) == asked


def test_a_result_without_a_checksum_may_be_fetched_again(
    standin: Standin, connection: Connection, tmp_path: Path
) -> None:
    standin.on("GET", "/r", "abc")
    first = Downloads(connection, tmp_path).fetch(result_at(standin))
    again = Downloads(connection, tmp_path).fetch(result_at(standin))
    assert again.path == first.path
    first.path.write_bytes(b"mine")
    with pytest.raises(Damaged, match="--overwrite"):
        Downloads(connection, tmp_path).fetch(result_at(standin))
    assert first.path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [first.path]


def test_wanted() -> None:
    results = [Result("a", "u"), Result("b", "v")]
    assert wanted(results, []) == tuple(results)
    assert wanted(results, ["b", "b"]) == (results[1],)
    with pytest.raises(Refused, match="no result 'c'; it has: a, b"):
        wanted(results, ["c"])
