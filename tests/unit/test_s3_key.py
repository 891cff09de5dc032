"""The key to an S3 store: where it comes from, and what is signed with it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from uws_server.storage import credentials
from uws_server.storage.links import Links
from uws_server.storage.open import Cloud, open_store
from uws_server.storage.sigv4 import Key, presigned

pytestmark = pytest.mark.covers("4:object-store-links")

FILE = "[default]\naws_access_key_id = AK\naws_secret_access_key = s%cret/+=\n"
LINKS = Links(b"s" * 32)


def test_the_signature_is_the_one_of_the_reference() -> None:
    """The example of the S3 API reference, "Authenticating Requests: Using Query Parameters"."""
    link = presigned(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        86400,
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert link == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_a_key_does_not_show_its_secret() -> None:
    assert "secret" not in repr(Key("id", "secret", "secret token"))


def test_the_key_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(FILE + "aws_session_token = t\n")
    file.chmod(0o600)
    environment = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"}
    assert credentials.find(file, environment) == Key("AK", "s%cret/+=", "t")


def test_the_key_of_the_environment() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s", "HOME": "/"}
    assert credentials.find(None, environment) == Key("AK", "s")
    assert credentials.find(None, {"HOME": "/"}) is None


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (FILE, 0o644, "chmod 600"),
        ("[default]\naws_access_key_id = AK\n", 0o600, "both aws_access_key_id and"),
        ("[other]\n" + FILE.partition("\n")[2], 0o600, "both aws_access_key_id and"),
        ("s%cret\n", 0o600, "no credentials file"),
        ("", 0o600, "both"),
    ],
)
def test_bad_files_are_named_and_not_quoted(tmp_path: Path, text: str, mode: int, words: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ValueError, match=words) as said:
        open_store("s3://bucket", LINKS, cloud=Cloud(credentials_file=file), environment={})
    assert str(file) in str(said.value)
    assert "s%cret" not in str(said.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        credentials.find(tmp_path / "none", {})


def test_half_a_key() -> None:
    with pytest.raises(ValueError, match="the environment must give both"):
        credentials.find(None, {"AWS_ACCESS_KEY_ID": "AK"})


@pytest.mark.parametrize(
    "url",
    ["s3:bucket", "s3:///prefix", "s3://AK:s%cret@bucket/x", "s3://host:9000/x", "s3://b/x?y", "s3://b/x#y"],
)
def test_what_is_no_bucket(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix") as said:
        open_store(url, LINKS, environment={})
    assert "s%cret" not in str(said.value)


@pytest.mark.parametrize("prefix", ["a//b", "a/../b", "x" * 101])
def test_prefixes_that_no_key_may_have(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"key|prefix"):
        open_store(f"s3://bucket/{prefix}", LINKS, environment={})
