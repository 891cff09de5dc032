"""What wakes a supervisor: its descriptors, each with a handler, and the wish that it stop."""

from __future__ import annotations

import os
import select
import time

from runners.local import site_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Wakeups:
    """The one place where the supervisor waits."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.stop_seen: float | None = None  # on the monotonic clock, when the wish to stop was seen
        self._bell = site_files.bind_socket(directory, site_files.WAKE)
        self.listen(self._bell.fileno(), self._rung)

    def listen(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call the handler in `turn` when the descriptor can be read."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def unlisten(self, descriptor: int) -> None:
        """Never mind what this descriptor says, if anybody did."""
        if self._handlers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def turn(self, timeout: float) -> None:
        """Handle what happens within `timeout` seconds, at least one thing if any does."""
        for descriptor, _ in self._poll.poll(max(0.0, timeout) * 1000):
            handler = self._handlers.get(descriptor)
            if handler:
                handler()

    def pause(self, seconds: float) -> None:
        """Go on handling for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.turn(left)

    @property
    def stop_asked(self) -> bool:
        """Whether somebody was seen to want the end of the attempt."""
        return self.stop_seen is not None

    def look_for_stop(self) -> None:
        """See whether somebody wants it by now."""
        if not self.stop_asked and os.path.exists(f"{self._directory}/{site_files.STOP}"):
            self.stop_seen = time.monotonic()

    def _rung(self) -> None:
        try:
            while self._bell.recv(16):
                pass
        except BlockingIOError:
            pass
        self.look_for_stop()
