"""For one's own machine: whoever reaches the port may do everything, and nobody is asked who they are."""

from __future__ import annotations

from uws_server.auth.base import Header
from uws_server.domain.caller import Caller

_NOBODY = Caller()


class Anonymous:
    """All callers are the one anonymous caller, with whatever credentials they come (UWS-19)."""

    def authenticate(self, header: Header) -> Caller:
        """See `Authenticator.authenticate`."""
        return _NOBODY
