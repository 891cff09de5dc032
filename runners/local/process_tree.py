"""The user's process and all that come of it, held at a gate until it may run.

`Tree` is the interface of the three ways to start it: `runners.local.namespaces` (root),
`runners.local.bubblewrap` (any user, by the `bwrap` program) and `runners.local.plain` (no
isolation). The gate lets the caller first write down that the user's code is about to run.

Runs in the supervisor, where start-up time counts: standard library, few imports.
"""

from __future__ import annotations

import os

from runners.local import child, kernel, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class SandboxError(Exception):
    """The site could not set up the surroundings of the user's process; its code has not run."""


class Tree:
    """The user's process and all that come of it. `leader` is our own child, which ends last."""

    companions = 0  # processes of ours that count as the user's: they are in its control group
    agent: int | None = None  # the supervisor's other child, not of this tree

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._gate_out, self._gate_in = os.pipe()
        self._report_out, self._report_in = os.pipe()
        self.leader = 0

    def spawn(self, streams: tuple[int, int, int], groups: list[int]) -> None:
        """Fork the process that leads the tree; it stops at the gate.

        :param streams: what becomes stdin, stdout and stderr.
        :param groups: descriptors of control groups to enter.
        """
        raise NotImplementedError

    def identities(self) -> list[list[int]]:
        """``[pid, start time]`` of those whose end proves that the whole tree has ended."""
        return [processes.identify(self.leader)]

    def go(self) -> None:
        """Let the user's code run."""
        try:
            os.write(self._gate_in, b"G\n")
        except BrokenPipeError:
            pass  # it has failed already, and `failure` says why
        os.close(self._gate_in)

    def failure(self) -> str:
        """Why the user's program could not be started, asked after the leader has ended."""
        os.set_blocking(self._report_out, False)
        try:
            report = os.read(self._report_out, 4096)
        except BlockingIOError:
            return ""
        return report.decode(errors="replace")

    def terminate(self) -> None:
        """SIGTERM for the user's process and its group."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL for the whole tree."""
        raise NotImplementedError

    def members(self) -> list[processes.Process]:
        """The processes of the tree, for measuring."""
        return processes.descendants(self.leader)

    def exit_code(self, status: int) -> int:
        """The user's process's exit code from the leader's wait status; 128 + n for signal n."""
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def settle(self) -> None:
        """Called when the leader has been waited for: return when all of the tree has gone."""

    def _fail(self, error: BaseException, code: int = child.SETUP_FAILED) -> NoReturn:
        """Report from a forked child, and end it."""
        try:
            os.write(self._report_in, str(error).encode()[:4000])
        finally:
            os._exit(code)

    def _wait_at_gate(self) -> None:
        """In the forked child: end unless the supervisor lives to say go."""
        os.close(self._gate_in)
        if os.read(self._gate_out, 1) != b"G":
            os._exit(child.SETUP_FAILED)

    def _enter_program(self, streams: tuple[int, int, int]) -> NoReturn:
        program = self._plan["argv"][0]
        try:
            os.chdir(self._plan["cwd"])
            self._wait_at_gate()
        except OSError as error:
            self._fail(error)
        try:
            child.run_program(self._plan["argv"], self._plan["environment"], streams)
        except FileNotFoundError:
            self._fail(SandboxError(f"{program}: no such program"), 127)
        except (OSError, ValueError) as error:
            self._fail(SandboxError(f"{program}: {getattr(error, 'strerror', None) or error}"), 126)


def become_subreaper() -> None:
    """Let orphans of ours become our children instead of process 1's."""
    kernel.check(kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1), "subreaper")


def close(*descriptors: int) -> None:
    """Close them all."""
    for descriptor in descriptors:
        os.close(descriptor)


def send(pid: int, number: int) -> None:
    """Signal a process that may have gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def send_group(leader: int, number: int) -> None:
    """Signal a process group, or its leader when that has not made the group yet."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        send(leader, number)
