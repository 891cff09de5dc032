"""No isolation: the user's process in a session of its own."""

from __future__ import annotations

import os
import signal
import time

from runners.local import child, process_tree, processes


class PlainTree(process_tree.Tree):
    """No isolation: a session of its own beneath the supervisor, which reaps all orphans."""

    def spawn(self, streams: tuple[int, int, int], groups: list[int]) -> None:
        process_tree.become_subreaper()
        parent = os.getpid()
        self.leader = os.fork()
        if self.leader == 0:
            try:
                child.die_with_parent(parent)
                child.enter_groups(groups)
                os.setsid()
                child.apply_rlimits(self._plan["rlimits"])
                child.drop_privileges(None)
                if self._plan["filter"]:
                    child.filter_system_calls()
            except BaseException as error:  # noqa: BLE001 -- a forked child must not return
                self._fail(error)
            self._enter_program(streams)
        process_tree.close(self._gate_out, self._report_in)

    def terminate(self) -> None:
        process_tree.send_group(self.leader, signal.SIGTERM)

    def kill(self) -> None:
        process_tree.send_group(self.leader, signal.SIGKILL)
        self.kill_leftovers()

    def members(self) -> list[processes.Process]:
        return processes.descendants(os.getpid(), without=self.agent)

    def settle(self) -> None:
        while not self.kill_leftovers():
            time.sleep(0.002)  # the kernel needs a moment for each

    def kill_leftovers(self) -> bool:
        """Kill and reap all but the leader; True when none was found."""
        found = self.members()
        for process in found:
            if not process.ended:
                process_tree.send(process.pid, signal.SIGSTOP)  # first, lest they fork
        for process in found:
            if not process.ended:
                process_tree.send(process.pid, signal.SIGKILL)
            if process.pid != self.leader:
                try:
                    os.waitpid(process.pid, os.WNOHANG)
                except ChildProcessError:
                    pass  # not our child yet: it is once its parent has ended
        return all(process.pid == self.leader for process in found)
