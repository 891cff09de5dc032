"""Isolation by the `bwrap` program: without root where user namespaces are allowed, and as root."""

from __future__ import annotations

import fcntl
import json
import os
import signal

from runners.local import child, process_tree, processes, system_calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_GATE = 3  # sh knows descriptors of one digit only
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try")
_TO_BECOME = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # another user, with no way back


class BubblewrapTree(process_tree.Tree):
    """What `runners.local.namespaces` makes, made by `bwrap`."""

    companions = 2  # bwrap, and its process 1
    _inner = 0
    _status = -1  # bwrap tells there the inner pid, and the exit code if the program was reached
    _killed = False
    _broken = False

    def spawn(self, streams: tuple[int, int, int], groups: list[int]) -> None:
        process_tree.become_subreaper()
        information_out, information_in = os.pipe()
        parent = os.getpid()
        self.leader = os.fork()
        if self.leader == 0:
            try:
                child.die_with_parent(parent)
                child.enter_groups(groups)
                os.setsid()
                for target, source in enumerate(streams):
                    os.dup2(source, target, inheritable=True)
                # No write end of the gate reaches bwrap: if the supervisor dies, the gate fails.
                information = fcntl.fcntl(information_in, fcntl.F_DUPFD, 10)
                os.dup2(fcntl.fcntl(self._gate_out, fcntl.F_DUPFD, 10), _GATE, inheritable=True)
                child.apply_rlimits(self._plan["rlimits"])
                calls = _filter() if self._plan["filter"] else None
                argv = command(self._plan, information, calls)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                os.execv(argv[0], argv)
            except BaseException as error:  # noqa: BLE001 -- a forked child must not return
                self._fail(error)
        process_tree.close(self._gate_out, self._report_in, information_in)
        text = b""
        while b"}" not in text and (data := os.read(information_out, 4096)):
            text += data
        self._status = information_out
        try:
            self._inner = int(json.loads(text.split(b"}")[0] + b"}")["child-pid"])
        except (ValueError, KeyError):
            self._inner = 0  # it failed early, and says why on stderr

    def identities(self) -> list[list[int]]:
        return [processes.identify(pid) for pid in (self.leader, self._inner) if pid]

    def terminate(self) -> None:
        self._killed = True  # it may still be setting up, and then ends without a word
        inside = processes.descendants(self._inner) if self._inner else []
        main = next((process for process in inside if process.parent == self._inner), None)
        for process in inside:
            if main and process.group == main.group and not process.ended:
                process_tree.send(process.pid, signal.SIGTERM)

    def kill(self) -> None:
        self._killed = True
        process_tree.send(self._inner or self.leader, signal.SIGKILL)

    def settle(self) -> None:
        if self._inner:  # bwrap may leave before its process 1, which is our child then
            try:
                os.waitpid(self._inner, 0)
            except ChildProcessError:
                pass

    def exit_code(self, status: int) -> int:
        os.set_blocking(self._status, False)
        try:
            reached = b'"exit-code"' in os.read(self._status, 4096)
        except BlockingIOError:
            reached = False
        code = super().exit_code(status)
        self._broken = not reached and not self._killed
        return child.SETUP_FAILED if self._broken else code

    def failure(self) -> str:
        return super().failure() or ("bwrap could not set up the sandbox" if self._broken else "")


def _filter() -> int:
    """A descriptor from which `bwrap` reads the filter for system calls."""
    descriptor = os.memfd_create("filter", 0)
    os.write(descriptor, system_calls.program(os.uname().machine))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def command(plan: dict[str, Any], information: int, calls: int | None) -> list[str]:
    """The `bwrap` argument vector for a plan.

    :param information: the descriptor for what `bwrap` tells.
    :param calls: the descriptor of the filter for system calls, if there is to be one.

    The user's program starts behind a gate in `sh`, which ends unless a word comes through it;
    `setpriv` then becomes the attempt's user, if it has one, and `env -i` gives the environment
    unchanged, which `sh` would not.
    """
    work = plan["work"]
    words = [plan["bubblewrap"], *_NAMESPACES, "--die-with-parent", "--new-session"]
    words += ["--json-status-fd", str(information), "--cap-drop", "ALL", "--clearenv"]
    if plan["network"] == "none":
        words.append("--unshare-net")
    if calls is not None:
        words += ["--seccomp", str(calls)]
    become = []
    if plan["uid"] is None:
        words.append("--unshare-user-try")
    else:  # by root: without a user namespace, in which there is no other user to become
        words += [word for name in _TO_BECOME for word in ("--cap-add", name)]
        user = [f"--reuid={plan['uid']}", f"--regid={plan['uid']}", "--clear-groups"]
        become = ["/usr/bin/setpriv", *user, "--inh-caps=-all", "--bounding-set=-all"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for scratch in ("/tmp", "/dev/shm"):
        words += ["--perms", "1777", "--size", str(plan["scratch"]), "--tmpfs", scratch]
    for action, path, *rest in plan["view"]:
        words += _places_above(path)
        if action == "symlink":
            words += ["--symlink", rest[0], path]
        elif action == "bind":
            words += ["--ro-bind", path, path]
        elif action == "empty":
            words += ["--size", str(1024**2), "--tmpfs", path]
        elif action == "null":
            words += ["--ro-bind", "/dev/null", path]
    words += [*_places_above(work), "--ro-bind", work, work]
    for place in ("outputs", "tmp", "uws"):
        # A mount each, because a mount cannot be renamed: its owner here is the job, and the agent, which
        # sees what it sees without the sandbox, must not find a link to elsewhere in the place of one.
        words += ["--bind", f"{work}/{place}", f"{work}/{place}"]
    for path in (step[1] for step in plan["view"] if step[0] == "empty"):
        words += ["--remount-ro", path]
    words += ["--remount-ro", "/", "--chdir", "/", "--", "/bin/sh", "-c"]
    words += [f'read -r go <&{_GATE} || exit 125; exec {_GATE}<&- "$@"', "sh", *become]
    words += ["/usr/bin/env", "-i", f"--chdir={plan['cwd']}"]  # where only that user may go
    words += [f"{name}={value}" for name, value in plan["environment"].items()]
    return words + list(plan["argv"])


def _places_above(path: str) -> list[str]:
    """Have the directories above `path` made where they are not there, for every user to pass through.

    Left to itself, bwrap takes the permissions of the outside.
    """
    parts = path.split("/")[1:-1]
    above = ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return [word for place in above for word in ("--perms", "0755", "--dir", place)]
