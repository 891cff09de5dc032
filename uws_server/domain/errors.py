"""What can be wrong with a request, each with the one sentence that the client is told.

Refused
├── BadRequest        400  cannot be understood: a value, a parameter
├── Unauthenticated   401  nobody may do this without saying who they are
├── Forbidden         403  not by this caller, or not in this phase
├── NotFound          404  no such service, job, parameter, result
├── PartsMissing      412  a large result cannot be put together yet: its agent asks which parts are missing
├── TooLarge          413
├── WrongType         415
├── Conflict          409  an Idempotency-Key used for something else, a fenced-off attempt
└── Unavailable       503  with `retry_after` seconds: Redis or the object store does not answer
"""

from __future__ import annotations


class Refused(Exception):
    """A request that is not carried out; nothing was changed. ``str()`` is the sentence for the client."""


class BadRequest(Refused):
    """The request cannot be understood."""


class Unauthenticated(Refused):
    """The caller must say who they are."""


class Forbidden(Refused):
    """Not allowed: to this caller, or in the job's present phase (UWS-06)."""


class NotFound(Refused):
    """There is no such thing."""


class TooLarge(Refused):
    """More bytes, parameters or files than are taken."""


class WrongType(Refused):
    """A body of a type that is not understood."""


class Conflict(Refused):
    """It contradicts what was said before."""


class PartsMissing(Refused):
    """Not all parts of a large result are there; whoever asks for them is told which to send."""


class Unavailable(Refused):
    """Something behind the server does not answer just now; ``retry_after`` in seconds."""

    def __init__(self, message: str, retry_after: float = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after
