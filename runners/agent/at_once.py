"""A few threads for a list of work, without the imports of ``concurrent.futures`` at every start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

THREADS = 4

_T = TypeVar("_T")
_R = TypeVar("_R")


def at_once(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """What ``work`` makes of each item, in their order, some at the same time.

    The first failure is raised when all have stopped; nothing is begun after it.
    """
    results: dict[int, _R] = {}
    failures: list[BaseException] = []
    lock = threading.Lock()
    turns = iter(range(len(items)))

    def run() -> None:
        while True:
            with lock:
                number = -1 if failures else next(turns, -1)
            if number < 0:
                return
            try:
                results[number] = work(items[number])
            except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(min(THREADS, len(items)) - 1)]
    for thread in threads:
        thread.start()
    run()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(items))]
