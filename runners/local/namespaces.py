"""Root's isolation: namespaces of our own making, a uid and a control group per attempt."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct

from runners.local import child, kernel, mounts, process_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x1 | 0x40


class NamespaceTree(process_tree.Tree):
    """Our own process 1 in namespaces of its own, whose end ends all of it.

    The kernel lets process 1 of a pid namespace go only after everything in it has gone, so its
    end, seen from outside, is the proof that the tree is empty.
    """

    def spawn(self, streams: tuple[int, int, int], groups: list[int]) -> None:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            self.leader = os.fork()
            if self.leader == 0:
                self._be_init(streams, groups)
        finally:  # our next children, the agents, stay outside
            kernel.enter_namespace(own, kernel.CLONE_NEWPID)
            os.close(own)
        process_tree.close(self._gate_out, self._report_in)

    def terminate(self) -> None:
        process_tree.send(self.leader, signal.SIGTERM)

    def kill(self) -> None:
        process_tree.send(self.leader, signal.SIGKILL)

    def _be_init(self, streams: tuple[int, int, int], groups: list[int]) -> NoReturn:
        """Process 1: builds the view, starts the user's process, reaps, passes SIGTERM on."""
        try:
            child.die_with_parent(None)  # the gate ends it if the supervisor has died already
            watched = {signal.SIGTERM, signal.SIGCHLD}
            signal.pthread_sigmask(signal.SIG_BLOCK, watched)
            os.setsid()
            _leave_namespaces(self._plan["network"])
            mounts.build_view(self._plan)
            user = os.fork()
            if user == 0:
                self._be_user(streams, groups)
            child.close_all_but(self._report_in)
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            self._fail(error)
        while True:
            if signal.sigwait(watched) == signal.SIGTERM:
                process_tree.send_group(user, signal.SIGTERM)
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                if pid == user:  # whatever it left running ends with us
                    code = os.waitstatus_to_exitcode(status)
                    os._exit(code if code >= 0 else 128 - code)

    def _be_user(self, streams: tuple[int, int, int], groups: list[int]) -> NoReturn:
        try:
            os.setsid()
            child.enter_groups(groups)
            child.apply_rlimits(self._plan["rlimits"])
            child.drop_privileges(self._plan["uid"])
            if self._plan["filter"]:
                child.filter_system_calls()
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            self._fail(error)
        self._enter_program(streams)


def _leave_namespaces(network: str) -> None:
    kernel.unshare(_NAMESPACES | (kernel.CLONE_NEWNET if network == "none" else 0))
    if os.path.exists("/proc/self/ns/cgroup"):
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    if network == "none":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
            fcntl.ioctl(loopback, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))


def probe() -> None:
    """In a process of its own: try what `NamespaceTree` needs.

    :raises OSError: this machine does not let us.
    """
    kernel.unshare(kernel.CLONE_NEWPID)
    tried = os.fork()
    if tried == 0:
        try:
            kernel.unshare(_NAMESPACES)
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            flags = kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("tmpfs", "/tmp", "tmpfs", flags, "size=1m")
            os.mkdir("/tmp/proc")
            kernel.mount("proc", "/tmp/proc", "proc", flags | kernel.MS_NOEXEC)
            os.mkdir("/tmp/bind")
            kernel.bind("/usr", "/tmp/bind", read_only=True)
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            os.write(2, str(error).encode())
            os._exit(1)
        os._exit(0)
    if os.waitpid(tried, 0)[1] != 0:
        raise OSError(errno.EPERM, "namespaces are not allowed here")
