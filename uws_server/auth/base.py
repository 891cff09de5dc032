"""What every authenticator offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from uws_server.domain.caller import Caller

Header = Callable[[str], str | None]
"""Gives a request's header by its name, in any case; None when it was not sent."""


class Authenticator(Protocol):
    """Tells who sent a request, from its headers alone; knows neither Flask nor jobs."""

    def authenticate(self, header: Header) -> Caller:
        """The caller.

        :raises Unauthenticated: these credentials are no good, or there are none and must be.
        """
