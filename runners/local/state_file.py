"""How a supervisor tells what it does: state.json, and a bell for those who watch."""

from __future__ import annotations

import json
import os
import time

from runners.local import processes, site_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class StateFile:
    """The attempt's state.json. `facts` are what else stands in it the next time."""

    def __init__(self, directory: str, watchers: str) -> None:
        self._directory = directory
        self._watchers = watchers
        self.facts: dict[str, Any] = {"supervisor": processes.identify(os.getpid())}

    def tell(self, state: str, *, durable: bool = False, **facts: Any) -> None:
        """Write it, and ring unless it is durable: what is final is rung for when the lock is free."""
        self.facts.update(facts, state=state)
        text = json.dumps(self.facts)
        for _ in range(100):
            try:
                site_files.write(self._directory, site_files.STATE, text, durable=durable)
                break
            except OSError:  # the disk is full, for us too: others' files may be going just now
                if not durable:
                    break  # the next word will do
                site_files.give_back(self._directory)
                time.sleep(0.1)
        if not durable:
            self.ring()

    def ring(self) -> None:
        """Wake those who watch."""
        site_files.ring(self._watchers)
