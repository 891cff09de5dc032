"""Everybody is nobody: for one's own machine, where whoever reaches the port may do everything."""

from __future__ import annotations

from collections.abc import Mapping

from uws_server.domain.caller import Caller

_NOBODY = Caller()


class Anonymous:
    """All callers are one anonymous caller, with whatever credentials they come."""

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Nobody in particular (UWS-19)."""
        return _NOBODY
