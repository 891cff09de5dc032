"""What can go wrong between client and server. Each error is one sentence for the person who asked.

UwsError
├── Refused       the server said no (4xx), with its reason
├── Unreachable   no answer: no connection, a time-out, a server in trouble
├── NotUws        an answer that no UWS server gives
├── Damaged       a result did not arrive as the server described it
└── Unfinished    the time to wait is over and the job goes on
"""

from __future__ import annotations


class UwsError(Exception):
    """The root of all errors of this package."""


class Refused(UwsError):
    """The server refused the request. ``status`` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(UwsError):
    """The server did not answer, or said that it cannot just now."""


class NotUws(UwsError):
    """What answered is not a UWS server, or a broken one."""


class Damaged(UwsError):
    """A result is not what its size or checksum says, or cannot be put where it was asked for."""


class Unfinished(UwsError):
    """The job has not ended within the time given. It goes on."""
