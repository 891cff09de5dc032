"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass

from uws_server.domain.job import ANONYMOUS


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with jobs of their own; ``owner`` is what UWS shows as ownerId, '' for an anonymous one."""

    owner: str = ANONYMOUS
