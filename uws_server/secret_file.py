"""The file with the secret that signs links and tokens."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from uws_server.config_file import BadConfig


def made_secret(path: Path) -> bytes:
    """Read the secret, or make it: linked into place whole, so that of two makers one wins for both.

    :raises BadConfig: see `read_secret`.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".secret.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_hex(32).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """The secret in a file, at least 32 bytes.

    :raises BadConfig: it cannot be read, is too short, or others may read it.
    """
    try:
        content = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise BadConfig(f"the secret cannot be read: {error}") from error
    if len(content) < 32:
        raise BadConfig(f"the secret in {path} is shorter than 32 characters")
    if mode & 0o007:
        raise BadConfig(f"the secret in {path} can be read by everybody: chmod 600 {path}")
    return content
