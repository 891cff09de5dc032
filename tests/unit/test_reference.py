"""Names of images, read."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.kubernetes.reference import Reference, parse

pytestmark = pytest.mark.covers("4:any-image")

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOSTS = st.one_of(
    st.just("localhost"),
    st.lists(LABELS, min_size=2, max_size=4).map(".".join),
    st.tuples(LABELS, st.integers(1, 65535)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
)
PARTS = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
REPOSITORIES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(HOSTS, REPOSITORIES, TAGS, st.one_of(st.just(""), DIGESTS))
def test_a_name_in_full_is_read_as_it_was_written(host: str, repository: str, tag: str, digest: str) -> None:
    text = f"{host}/{repository}:{tag}" + (f"@{digest}" if digest else "")
    found = parse(text)
    assert found == Reference(host, repository, tag, digest)
    assert found.wanted == (digest or tag)
    assert parse(str(found)).wanted == found.wanted
    assert parse(text, "other.example") == found


@given(REPOSITORIES, st.one_of(st.just(""), TAGS))
def test_a_name_without_a_registry_gets_the_default_and_nothing_else(repository: str, tag: str) -> None:
    text = f"{repository}:{tag}" if tag else repository
    first = text.partition("/")[0]
    if "/" in text and ("." in first or first == "localhost"):
        return  # such a first part is a registry
    assert parse(text, "registry.example:5000/mirror") == Reference(
        "registry.example:5000", f"mirror/{repository}", tag or "latest"
    )
    with pytest.raises(ValueError, match="names no registry"):
        parse(text)


@given(st.text(max_size=80))
def test_any_text_is_a_name_that_can_stand_in_an_address_or_is_refused(text: str) -> None:
    with suppress(ValueError):
        found = parse(text, "registry.example")
        assert not set("?#%\\ \n\r\0") & set(str(found))
        assert not {".", ".."} & set(found.repository.split("/"))
        assert parse(str(found)) == found or found.digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/stars",
        "registry.example/",
        "registry.example/Stars",
        "registry.example/a//b",
        "registry.example/../b",
        "registry.example/a:",
        "registry.example/a:b:c",
        "registry.example/a:-b",
        "registry.example/a@sha256:abc",
        "registry.example/a@",
        "registry.example/a@sha512:" + "0" * 128,
        "registry.example:port/a",
        "user@registry.example/a",
        "-registry.example/a",
        "[::1]:5000/a",
        "https://registry.example/a",
        "registry.example/" + "a" * 600,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|its|what) "):
        parse(text, "default.example")
