"""One machine for the crash tests of a file; after a test that failed, a new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.machine import Machine


class Kept:
    """The machine that the tests of a file share, as starting one takes seconds."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._machine: Machine | None = None

    def get(self) -> Machine:
        if self._machine is None:
            self._machine = Machine(self._factory.mktemp("m"))
        return self._machine

    def drop(self) -> None:
        if self._machine is not None:
            self._machine.close()
            self._machine = None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(tmp_path_factory)
    yield kept
    kept.drop()


@pytest.fixture
def machine(kept: Kept) -> Iterator[Machine]:
    """A machine on which everything runs and nothing is left of earlier jobs, after the test too."""
    machine = kept.get()
    try:
        machine.disarm()
        yield machine
        machine.quiet()
    except BaseException:
        kept.drop()
        raise
