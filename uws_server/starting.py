"""Why a process does not start, in sentences, and whether starting it again later may help."""

from __future__ import annotations

import errno

from uws_server.config_file import BadConfig
from uws_server.exit_codes import EX_CONFIG, EX_TEMPFAIL
from uws_server.factory import NewerStore, NotDurable
from uws_server.storage.base import StorageUnavailable
from uws_server.store.base import StoreUnavailable

REFUSALS = (BadConfig, NotDurable, NewerStore, StoreUnavailable, StorageUnavailable, OSError)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def refusal(error: Exception) -> tuple[str, int]:
    """What is said of one of `REFUSALS`, one sentence a line, and the exit code.

    A full disk is no bad setting: whoever is told to start what ended goes on doing so until there is room.

    :raises Exception: ``error`` itself, when nothing is known of it that would help more than its traceback.
    """
    if isinstance(error, (BadConfig, NotDurable, NewerStore)):
        return str(error), EX_CONFIG
    if isinstance(error, StoreUnavailable):
        said = str(error.__cause__ or error).rstrip(".")
        return f"Redis does not answer: {said}. Does it run where redis.url says?", EX_TEMPFAIL
    failed = error if isinstance(error, OSError) else error.__cause__
    if isinstance(failed, OSError) and failed.filename:
        sentence = f"{failed.filename} cannot be made or written: {failed.strerror}"
        if failed.errno in _FULL:
            return f"{sentence}; make room there", EX_TEMPFAIL
        return f"{sentence}; --data names another directory", EX_CONFIG
    if isinstance(error, StorageUnavailable):
        return f"the object store does not answer: {error}", EX_TEMPFAIL
    raise error
