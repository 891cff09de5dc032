"""What the agent writes down of what is stored, so that a later run goes on from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runners.agent.attempt_dir import AttemptDir
from uws_server.domain.wire import STREAMS


@dataclass(slots=True)
class Memory:
    """``agent-state.json``: what is stored already.

    ``logs``: per stream the offset up to which it is stored, and the size of the segment that was
    begun there, 0 for none. A segment that was begun is sent again with the same size, so that
    what a name stands for never changes. ``results``: object name to the manifest's entry.
    ``uploads``: object name to the upload in parts that was begun for it, and the `Reading.state` of
    the file that its parts are of.
    """

    logs: dict[str, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(STREAMS, (0, 0)))
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    done: bool = False

    @classmethod
    def load(cls, attempt: AttemptDir) -> Memory:
        """What an earlier run of the agent wrote down, if any."""
        data = attempt.read_json("agent-state.json")
        if data is None:
            return cls()
        logs = {stream: (mark[0], mark[1]) for stream, mark in data["logs"].items()}
        uploads = {name: (upload, state) for name, (upload, state) in data.get("uploads", {}).items()}
        return cls(logs, data["results"], uploads, data["done"])

    def save(self, attempt: AttemptDir) -> None:
        """Write it down."""
        attempt.write_json(
            "agent-state.json",
            {"logs": self.logs, "results": self.results, "uploads": self.uploads, "done": self.done},
        )
