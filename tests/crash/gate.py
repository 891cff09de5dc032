"""Where the user's code of the template `probe` says that it has started, and waits to be let go."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter
from typing import Any

from tests.waiting import PATIENCE


class Gate:
    """Counts each start of user code by job and attempt, and says when it may end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._guard = threading.Lock()
        self._open = True
        self._waiting: dict[socket.socket, str] = {}
        self.starts: Counter[tuple[str, int]] = Counter()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Whoever comes from now on waits."""
        with self._guard:
            self._open = False

    def open(self) -> None:
        """Let everybody go, now and from now on."""
        with self._guard:
            self._open = True
            waiting, self._waiting = self._waiting, {}
        for connection in waiting:
            _let_go(connection)

    def waiting(self) -> set[str]:
        """The jobs whose code is running and waits."""
        with self._guard:
            return set(self._waiting.values())

    def attempts(self, job_id: str) -> dict[int, int]:
        """Attempt → how often its code was started."""
        with self._guard:
            return {attempt: n for (job, attempt), n in self.starts.items() if job == job_id}

    def close(self) -> None:
        """Let everybody go, and stop listening."""
        self.open()
        self._wake.close()
        self._thread.join(PATIENCE)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    self._selector.register(connection, selectors.EVENT_READ)
                else:
                    self._heard(key.fileobj)

    def _heard(self, connection: Any) -> None:
        try:
            text = connection.recv(256)
        except OSError:
            text = b""
        if not text.endswith(b"\n"):
            self._selector.unregister(connection)
            with self._guard:
                self._waiting.pop(connection, None)
            connection.close()
            return
        job_id, attempt = text.decode().split()
        with self._guard:
            self.starts[job_id, int(attempt)] += 1
            if not self._open:
                self._waiting[connection] = job_id
                return
        _let_go(connection)


def _let_go(connection: socket.socket) -> None:
    try:
        connection.sendall(b"go\n")
    except OSError:
        pass  # its code was killed
