"""Where the access key to an S3 store comes from: a file, else the environment, as S3 tools do it."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

from uws_server.storage.sigv4 import Key

_SECTION = "default"


def find(file: Path | None, environment: Mapping[str, str]) -> Key | None:
    """The access key, or None when neither names one.

    The file is what AWS's tools call a shared credentials file: INI, with ``aws_access_key_id``,
    ``aws_secret_access_key`` and perhaps ``aws_session_token`` in the section ``[default]``.

    :raises ValueError: the file cannot be used, or only half a key is given. No secret is in the message.
    """
    if file is not None:
        names, source = _read(file), str(file)
    else:
        names, source = {name.lower(): value for name, value in environment.items()}, "the environment"
    key_id, secret = names.get("aws_access_key_id", ""), names.get("aws_secret_access_key", "")
    if bool(key_id) != bool(secret) or (file is not None and not key_id):
        raise ValueError(f"{source} must give both aws_access_key_id and aws_secret_access_key")
    return Key(key_id, secret, names.get("aws_session_token", "")) if key_id else None


def _read(file: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        mode = file.stat().st_mode
        parser.read_string(file.read_text())
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        raise ValueError(f"{file} is no credentials file of sections and keys") from None
    if mode & 0o007:
        raise ValueError(f"{file} can be read by everybody: chmod 600 {file}")
    return dict(parser[_SECTION]) if parser.has_section(_SECTION) else {}
