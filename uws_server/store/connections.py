"""Connections to one Redis, each used by one caller at a time.

redis-py's own pool asks the kernel before every command whether a connection has something to read.
Under gevent that is a turn of the event loop, and costs more than the command. Here a connection goes
back to the others only when its reply was read to the end; whatever else happens to it, it is closed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis

_TRIES = 5
_PAUSE_SECONDS = 0.1  # doubled with each try: a Redis that is started again is back within them


class Connections:
    """Commands on as many connections as there are callers at once. Thread-safe, and fit for gevent."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._idle: list[Any] = []  # of redis-py's connections, whose methods have no types

    def call(self, *words: str | int | bytes) -> Any:
        """Send one command and read its reply.

        A command whose connection breaks is sent again, so only commands that may be repeated belong here.

        :raises redis.RedisError: Redis refuses it, or does not answer.
        """
        for number in range(_TRIES):
            try:
                return self._once(words)
            except redis.TimeoutError:
                raise
            except redis.ConnectionError:
                # The others are as dead as this one.
                while self._idle:
                    self._idle.pop().disconnect()
                if number == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_SECONDS * 2**number)
        raise AssertionError

    def _once(self, words: tuple[str | int | bytes, ...]) -> Any:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
        try:
            connection.send_command(*words, check_health=False)
            answer = connection.read_response()
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().disconnect()


class Script:
    """A Lua script, called by its digest; Redis is given its text when it has forgotten it."""

    def __init__(self, connections: Connections, text: str, digest: str) -> None:
        self._connections = connections
        self._text = text
        self._digest = digest

    def __call__(self, keys: Sequence[str], words: Sequence[str | int] = ()) -> Any:
        """Run it, and give its reply.

        :raises redis.RedisError: Redis refuses it, or does not answer.
        """
        try:
            return self._connections.call("EVALSHA", self._digest, len(keys), *keys, *words)
        except redis.exceptions.NoScriptError:
            return self._connections.call("EVAL", self._text, len(keys), *keys, *words)
