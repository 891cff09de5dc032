"""Start the user's process so that it sees and reaches only what is its own.

Three ways, one interface: `NamespaceTree` (root: namespaces of our own making, a uid and a control
group per attempt), `BubblewrapTree` (any user, by the `bwrap` program) and `PlainTree` (a
process group; no isolation). Each holds the user's process at a gate until `go`, so that the
caller can first write down that the user's code is about to run.

Runs in the supervisor, where start-up time counts: standard library, few imports. The caller
has one thread; forking without exec is safe only so.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import time

from runners.local import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 8, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
_LAST_CAPABILITY = 63  # the kernel knows fewer, and says so

_DEVICES = ("null", "zero", "full", "random", "urandom")
_GATE = 3  # sh knows descriptors of one digit only
SETUP_FAILED = 125  # with a `Tree.failure`: the user's program was never reached


class SandboxError(Exception):
    """The site could not set up the surroundings of the user's process; its code has not run."""


def check(result: int, what: str) -> None:
    """:raises OSError: the C function failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system."""
    check(
        _libc.mount(
            source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
        ),
        f"mount {target}",
    )


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show `source`, not what is mounted beneath it, at `target`, without devices and set-uid."""
    check(
        _libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(MS_BIND), None),
        f"bind {source}",
    )
    flags = MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    check(_libc.mount(None, os.fsencode(target), None, ctypes.c_ulong(flags), None), f"bind {target}")


def prctl(option: int, value: int) -> int:
    """Set one attribute of this process; -1 on failure."""
    return int(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def become_subreaper() -> None:
    """Let orphans of ours become our children instead of process 1's."""
    check(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper")


def die_with_parent(parent: int | None) -> None:
    """SIGKILL for this process when the one that forked it ends, however it ends.

    :param parent: its pid, for it may have ended before this call; None where it cannot be seen.
    """
    check(prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "parent death signal")
    if parent is not None and os.getppid() != parent:
        os._exit(SETUP_FAILED)


def drop_privileges(uid: int | None, gid: int | None) -> None:
    """Give up every capability for good, and become this user when one is given."""
    for capability in range(_LAST_CAPABILITY + 1):
        if prctl(PR_CAPBSET_DROP, capability) != 0:
            break  # past the last one, or we have none to begin with
    if uid is not None and gid is not None:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")


def apply_rlimits(limits: dict[str, int]) -> None:
    """Set soft and hard limits by name (``fsize``, ``data``, ``nproc``); never core files.

    And let the kernel choose this process when memory is short: the supervisor is better kept.
    """
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(number)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))


def run_program(argv: list[str], environment: dict[str, str], streams: tuple[int, int, int]) -> NoReturn:
    """Become the user's program, with the signals and descriptors of a fresh process."""
    for target, source in enumerate(streams):
        os.dup2(source, target, inheritable=True)  # all others close by themselves on exec
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # Python ignores some, and ignoring is inherited
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvpe(argv[0], argv, environment)


class Tree:
    """The user's process and all that come of it. `leader` is our own child, which ends last."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._gate_out, self._gate_in = os.pipe()
        self._report_out, self._report_in = os.pipe()
        self.leader = 0

    def spawn(self, streams: tuple[int, int, int], doors: list[int]) -> None:
        """Fork the process that leads the tree; it stops at the gate.

        :param streams: what becomes stdin, stdout and stderr.
        :param doors: descriptors of control groups to enter.
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

    def _fail(self, error: BaseException, code: int = SETUP_FAILED) -> NoReturn:
        """Report from a forked child, and end it."""
        try:
            os.write(self._report_in, str(error).encode()[:4000])
        finally:
            os._exit(code)

    def _wait_at_gate(self) -> None:
        """In the forked child: end unless the supervisor lives to say go."""
        os.close(self._gate_in)
        if os.read(self._gate_out, 1) != b"G":
            os._exit(125)

    def _enter_program(self, streams: tuple[int, int, int]) -> NoReturn:
        program = self._plan["argv"][0]
        try:
            os.chdir(self._plan["cwd"])
            self._wait_at_gate()
        except OSError as error:
            self._fail(error)
        try:
            run_program(self._plan["argv"], self._plan["environment"], streams)
        except FileNotFoundError:
            self._fail(SandboxError(f"{program}: no such program"), 127)
        except (OSError, ValueError) as error:
            self._fail(SandboxError(f"{program}: {getattr(error, 'strerror', None) or error}"), 126)


class PlainTree(Tree):
    """No isolation: a session of its own beneath the supervisor, which reaps all orphans."""

    agent: int | None = None  # our other child, not of this tree

    def spawn(self, streams: tuple[int, int, int], doors: list[int]) -> None:
        become_subreaper()
        parent = os.getpid()
        self.leader = os.fork()
        if self.leader == 0:
            try:
                die_with_parent(parent)
                os.setsid()
                apply_rlimits(self._plan["rlimits"])
                drop_privileges(None, None)
            except BaseException as error:  # noqa: BLE001 -- a forked child must not return
                self._fail(error)
            self._enter_program(streams)
        _close(self._gate_out, self._report_in)

    def terminate(self) -> None:
        _signal_group(self.leader, signal.SIGTERM)

    def kill(self) -> None:
        _signal_group(self.leader, signal.SIGKILL)
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
                _signal(process.pid, signal.SIGSTOP)  # first, lest they fork
        for process in found:
            if not process.ended:
                _signal(process.pid, signal.SIGKILL)
            if process.pid != self.leader:
                try:
                    os.waitpid(process.pid, os.WNOHANG)
                except ChildProcessError:
                    pass  # not our child yet: it is once its parent has ended
        return all(process.pid == self.leader for process in found)


class BubblewrapTree(Tree):
    """The same view by `bwrap`, which works without root where user namespaces are allowed."""

    _inner = 0
    _status = -1  # bwrap tells there the inner pid, and the exit code if the program was reached
    _killed = False
    _broken = False

    def spawn(self, streams: tuple[int, int, int], doors: list[int]) -> None:
        become_subreaper()
        information_out, information_in = os.pipe()
        parent = os.getpid()
        self.leader = os.fork()
        if self.leader == 0:
            try:
                die_with_parent(parent)
                os.setsid()
                for target, source in enumerate(streams):
                    os.dup2(source, target, inheritable=True)
                # No write end of the gate reaches bwrap: if the supervisor dies, the gate fails.
                information = fcntl.fcntl(information_in, fcntl.F_DUPFD, 10)
                os.dup2(fcntl.fcntl(self._gate_out, fcntl.F_DUPFD, 10), _GATE, inheritable=True)
                apply_rlimits(self._plan["rlimits"])
                argv = bubblewrap_command(self._plan, information)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                os.execv(argv[0], argv)
            except BaseException as error:  # noqa: BLE001 -- a forked child must not return
                self._fail(error)
        _close(self._gate_out, self._report_in, information_in)
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
                _signal(process.pid, signal.SIGTERM)

    def kill(self) -> None:
        self._killed = True
        _signal(self._inner or self.leader, signal.SIGKILL)

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
        return SETUP_FAILED if self._broken else code

    def failure(self) -> str:
        return super().failure() or ("bwrap could not set up the sandbox" if self._broken else "")


class NamespaceTree(Tree):
    """Root's way: our own process 1 in namespaces of its own, whose end ends all of it.

    The kernel lets process 1 of a pid namespace go only after everything in it has gone, so its
    end, seen from outside, is the proof that the tree is empty.
    """

    def spawn(self, streams: tuple[int, int, int], doors: list[int]) -> None:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        check(_libc.unshare(CLONE_NEWPID), "unshare")
        try:
            self.leader = os.fork()
            if self.leader == 0:
                self._be_init(streams, doors)
        finally:  # our next children, the agents, stay outside
            check(_libc.setns(own, CLONE_NEWPID), "setns")
            os.close(own)
        _close(self._gate_out, self._report_in)

    def terminate(self) -> None:
        _signal(self.leader, signal.SIGTERM)

    def kill(self) -> None:
        _signal(self.leader, signal.SIGKILL)

    def _be_init(self, streams: tuple[int, int, int], doors: list[int]) -> NoReturn:
        """Process 1: builds the view, starts the user's process, reaps, passes SIGTERM on."""
        try:
            die_with_parent(None)  # the gate ends it if the supervisor has died already
            watched = {signal.SIGTERM, signal.SIGCHLD}
            signal.pthread_sigmask(signal.SIG_BLOCK, watched)
            os.setsid()
            build_view(self._plan)
            child = os.fork()
            if child == 0:
                self._be_user(streams, doors)
            _close_all_but([self._report_in])
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            self._fail(error)
        while True:
            if signal.sigwait(watched) == signal.SIGTERM:
                _signal_group(child, signal.SIGTERM)
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                if pid == child:  # whatever it left running ends with us
                    code = os.waitstatus_to_exitcode(status)
                    os._exit(code if code >= 0 else 128 - code)

    def _be_user(self, streams: tuple[int, int, int], doors: list[int]) -> NoReturn:
        try:
            os.setsid()
            for door in doors:
                os.write(door, b"0")
            apply_rlimits(self._plan["rlimits"])
            drop_privileges(self._plan["uid"], self._plan["gid"])
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            self._fail(error)
        self._enter_program(streams)


def build_view(plan: dict[str, Any]) -> None:
    """Replace this process's file system by the attempt's view of it, in namespaces of its own."""
    flags = _NAMESPACES | (CLONE_NEWNET if plan["network"] == "none" else 0)
    check(_libc.unshare(flags), "unshare")
    if os.path.exists("/proc/self/ns/cgroup"):
        check(_libc.unshare(CLONE_NEWCGROUP), "unshare cgroup")
    if plan["network"] == "none":
        _bring_loopback_up()
    check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "private mounts")
    root = plan["root"]
    os.makedirs(root, exist_ok=True)
    scratch = f"mode=1777,size={plan['scratch']}"
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=16m")
    for name in ("proc", "tmp", "dev"):
        os.mkdir(f"{root}/{name}")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, scratch)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _build_dev(f"{root}/dev", scratch)
    for action, path, *rest in plan["view"]:
        target = root + path
        if action == "symlink":
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(rest[0], target)
        elif action == "bind":
            _make_place(path, target)
            bind(path, target, read_only=True)
        elif action == "empty":
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
        elif action == "null":
            bind("/dev/null", target, read_only=True)
    work = plan["work"]
    os.makedirs(root + work, exist_ok=True)
    bind(work, root + work, read_only=False)
    bind(f"{work}/inputs", f"{root}{work}/inputs", read_only=True)
    os.chdir(root)
    if _libc.pivot_root(b".", b".") == 0:
        check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    elif ctypes.get_errno() == errno.EINVAL:  # we live in a chroot ourselves
        os.chroot(".")  # no way out without a capability, and no user namespace from within
    else:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
    check(_libc.mount(None, b"/", None, ctypes.c_ulong(flags), None), "read-only root")


def _make_place(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.lexists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _build_dev(dev: str, scratch: str) -> None:
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=1m")
    for name in _DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        check(
            _libc.mount(
                f"/dev/{name}".encode(), os.fsencode(f"{dev}/{name}"), None, ctypes.c_ulong(MS_BIND), None
            ),
            f"/dev/{name}",
        )
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, scratch)
    os.mkdir(f"{dev}/pts")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")


def _bring_loopback_up() -> None:
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        fcntl.ioctl(door, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: UP, RUNNING


def bubblewrap_command(plan: dict[str, Any], information: int) -> list[str]:
    """The `bwrap` argument vector for a plan.

    The user's program starts behind a gate in `sh`, which ends unless a word comes through it;
    `env -i` then gives the environment unchanged, which `sh` would not.
    """
    work = plan["work"]
    command = [plan["bubblewrap"], "--unshare-all", "--die-with-parent", "--new-session"]
    command += ["--json-status-fd", str(information), "--cap-drop", "ALL", "--clearenv"]
    if plan["network"] == "host":
        command.append("--share-net")
    command += ["--proc", "/proc", "--dev", "/dev"]
    for scratch in ("/tmp", "/dev/shm"):
        command += ["--perms", "1777", "--size", str(plan["scratch"]), "--tmpfs", scratch]
    for action, path, *rest in plan["view"]:
        if action == "symlink":
            command += ["--symlink", rest[0], path]
        elif action == "bind":
            command += ["--ro-bind", path, path]
        elif action == "empty":
            command += ["--size", str(1024**2), "--tmpfs", path]
        elif action == "null":
            command += ["--ro-bind", "/dev/null", path]
    command += ["--ro-bind", work, work]
    for place in ("outputs", "tmp", "uws"):
        # A mount each, because a mount cannot be renamed: its owner here is the job, and the agent, which
        # sees what it sees without the sandbox, must not find a link to elsewhere in the place of one.
        command += ["--bind", f"{work}/{place}", f"{work}/{place}"]
    for path in (step[1] for step in plan["view"] if step[0] == "empty"):
        command += ["--remount-ro", path]
    command += ["--remount-ro", "/", "--chdir", plan["cwd"], "--", "/bin/sh", "-c"]
    command += [f'read -r go <&{_GATE} || exit 125; exec {_GATE}<&- "$@"', "sh", "/usr/bin/env", "-i"]
    command += [f"{name}={value}" for name, value in plan["environment"].items()]
    return command + list(plan["argv"])


def probe_namespaces() -> None:
    """In a process of its own: try what `NamespaceTree` needs.

    :raises OSError: this machine does not let us.
    """
    check(_libc.unshare(CLONE_NEWPID), "unshare")
    child = os.fork()
    if child == 0:
        try:
            check(_libc.unshare(_NAMESPACES), "unshare")
            check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "mount")
            mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m")
            os.mkdir("/tmp/proc")
            mount("proc", "/tmp/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
            os.mkdir("/tmp/bind")
            bind("/usr", "/tmp/bind", read_only=True)
        except BaseException as error:  # noqa: BLE001 -- a forked child must not return
            os.write(2, str(error).encode())
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(errno.EPERM, "namespaces are not allowed here")


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _close_all_but(keep: list[int]) -> None:
    lowest = 0
    for descriptor in keep:
        os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        _signal(leader, number)
