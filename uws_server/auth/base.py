"""What every authenticator offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from uws_server.domain.caller import Caller


class Authenticator(Protocol):
    """Tells who sent a request, from its headers alone; knows neither Flask nor jobs."""

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """The caller. ``headers`` are looked up ignoring case.

        :raises Unauthenticated: these credentials are no good, or there are none and must be.
        """
