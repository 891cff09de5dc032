"""What keeps attempts apart on this machine: what was asked for, what works, what holds by it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runners.local import bubblewrap, cgroups, system_calls
from runners.local.view import package_root, view

Mode = Literal["namespaces", "bubblewrap", "none"]

_PROBE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How the local site runs jobs.

    ``isolation`` ``auto`` takes the best that works. ``uid_first`` to ``uid_last`` are given to
    attempts, one each, when the server is root; nobody else may use them. ``network`` ``none`` gives
    jobs a loopback of their own and nothing else. ``read_only`` are further paths jobs may read,
    ``hidden`` paths they must not see even where a parent of theirs is readable. ``cgroup`` is the
    name of the parent control group. ``file_inputs`` are directories below which the agent may read
    ``file:`` inputs (but nothing ``hidden``), ``deny_networks`` (CIDR) networks it fetches nothing from.
    ``agent`` is the agent's argument vector, to which verb and directory are added; it is tried
    ``agent_tries`` times, killed after ``agent_stall`` seconds without a byte read or written, and has
    ``agent_limit`` seconds after the end of the user's code.
    """

    isolation: Literal["auto", "namespaces", "bubblewrap", "none"] = "auto"
    uid_first: int = 1_900_000_000
    uid_last: int = 1_900_009_999
    uid_registry: Path = Path("/run/uws-uids")
    network: Literal["host", "none"] = "host"
    read_only: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    cgroup: str = "uws"
    file_inputs: tuple[Path, ...] = ()
    deny_networks: tuple[str, ...] = ()
    agent: tuple[str, ...] = (sys.executable, "-P", "-m", "runners.agent")
    agent_tries: int = 5
    agent_stall: float = 300.0
    agent_limit: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is used, and in sentences what holds by it and what does not.

    ``sealed`` says whether user code is kept from every credential of ours, and from the networks
    where some are to be had; where it is not, the site must serve only anonymous users of this machine.
    ``own_uid`` says whether each attempt runs as a user of its own.
    ``filters`` says whether the system calls of jobs are filtered, ``bubblewrap`` names the program.
    ``cgroup_roots`` maps controllers to the directories in which groups can be made.
    """

    mode: Mode
    sealed: bool
    holds: tuple[str, ...]
    lacks: tuple[str, ...]
    cgroup_roots: tuple[tuple[str, str], ...] = ()
    own_uid: bool = False
    filters: bool = False
    bubblewrap: str = ""


class IsolationError(Exception):
    """The isolation asked for does not work on this machine; the text says why."""


@functools.cache
def probe(settings: LocalSettings) -> Isolation:
    """Find out, once per process, by trying, what this machine lets us do.

    :raises IsolationError: the settings name a way that does not work here.
    """
    wanted = settings.isolation
    reasons = []
    if wanted in ("auto", "namespaces"):
        problem = _try_namespaces()
        if not problem:
            return _found(settings, "namespaces", own_uid=True)
        reasons.append(f"namespaces: {problem}")
    if wanted in ("auto", "bubblewrap"):
        program = shutil.which("bwrap") or ""
        if os.geteuid() == 0 and not _try_bubblewrap(settings, program, settings.uid_first):
            return _found(settings, "bubblewrap", own_uid=True, program=program)
        problem = _try_bubblewrap(settings, program, None)
        if not problem:
            return _found(settings, "bubblewrap", program=program)
        reasons.append(f"bubblewrap: {problem}")
    if wanted not in ("auto", "none"):
        raise IsolationError(f"isolation = {wanted} does not work on this machine ({'; '.join(reasons)})")
    return _found(settings, "none", reasons=reasons)


def _found(
    settings: LocalSettings,
    mode: Mode,
    *,
    own_uid: bool = False,
    program: str = "",
    reasons: Sequence[str] = (),
) -> Isolation:
    holds: list[str] = []
    lacks: list[str] = []
    if own_uid:
        holds.append("Each job runs as a user and group of its own, without any capability.")
    if mode == "none":
        holds.append("Ending a job ends its processes, double forks too, while its supervisor lives.")
        lacks += [
            "Credentials are in reach of jobs: they run as the server's own user and read all that it can.",
            "A job can kill its supervisor, and leave processes behind that clear their environment.",
        ]
    else:
        holds += [
            "A job sees the system's programs, read-only, and its own directory: no other file or process.",
            "Ending a job ends every process of it, also when its supervisor is killed.",
        ]
        if not own_uid:
            lacks.append("Jobs run as the server's own user; only the sandbox keeps them from its files.")
    roots = _by_the_kernel(settings, holds, lacks, own_uid=own_uid)
    if roots and mode == "none":
        lacks.append("Being root, a job can lift its own limits.")
    _network(settings, mode, holds, lacks)
    lacks.append(
        "Disk use is measured about four times a second: what a job writes meanwhile may pass its limit."
    )
    lacks += [f"Not used: {reason}." for reason in reasons]
    return Isolation(
        mode,
        mode != "none" and settings.network == "none",
        tuple(holds),
        tuple(lacks),
        tuple(roots.items()),
        own_uid,
        system_calls.can_filter(),
        program,
    )


def _by_the_kernel(
    settings: LocalSettings, holds: list[str], lacks: list[str], *, own_uid: bool
) -> dict[str, str]:
    """Say what the kernel refuses and limits; the control groups with which it does."""
    if system_calls.can_filter():
        holds.append(
            "System calls for namespaces, mounts, modules, keys and tracing of the kernel are refused."
        )
    else:
        lacks.append("System calls are not filtered. (no filter for this machine or by this kernel)")
    roots = _try_cgroups(settings.cgroup) if os.geteuid() == 0 else {}
    if own_uid:
        processes = "Processes are limited for the job's user, by a limit that it cannot raise."
    elif os.geteuid() == 0:  # whom the kernel exempts
        processes = "Processes are not limited: a fork bomb stops the machine."
    else:
        processes = "Processes are limited together with all others of the server's user."
    for controller, held, missing in (
        (
            "memory",
            "Memory is limited by the kernel for the whole job.",
            "Memory is watched ten times a second.",
        ),
        ("pids", "A fork bomb stays within the job.", processes),
        ("cpu", "CPU time is limited.", "CPU time is not limited."),
    ):
        if controller in roots:
            holds.append(held)
        else:
            lacks.append(f"{missing} (no {controller} control group)")
    return roots


def _network(settings: LocalSettings, mode: Mode, holds: list[str], lacks: list[str]) -> None:
    if mode == "none":
        lacks.append("The network is the machine's own.")
    elif settings.network == "none":
        holds.append("Jobs have no network.")
    else:
        lacks.append(
            "Credentials are in reach of jobs with network: host: they share the machine's network, and "
            "reach a cloud's metadata address, services on loopback such as a Redis on TCP, and this server."
        )


def _try_namespaces() -> str:
    if os.geteuid() != 0:
        return "the server is not root"
    program = "import sys; sys.path.append(sys.argv[1]); from runners.local.namespaces import probe; probe()"
    return _try([sys.executable, "-I", "-S", "-c", program, package_root()])


def _try_bubblewrap(settings: LocalSettings, program: str, uid: int | None) -> str:
    if not program:
        return "bwrap is not installed"
    with tempfile.TemporaryDirectory(prefix="uws-probe-") as work:
        for place in ("inputs", "outputs", "tmp", "uws"):
            os.mkdir(f"{work}/{place}")
        plan = {
            "bubblewrap": program,
            "work": work,
            "cwd": "/",
            "network": settings.network,
            "view": view(settings.read_only, settings.hidden),
            "scratch": 1024**2,
            "uid": uid,
            "environment": {},
            "argv": ["/bin/true"],
        }
        command = bubblewrap.command(plan, 2, None)
        return _try(["/bin/sh", "-c", 'echo go | { exec 3<&0; exec "$@"; }', "sh", *command])


def _try(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1][:300]


def _try_cgroups(parent: str) -> dict[str, str]:
    """The controllers that let us make a group and set its limits."""
    usable = {}
    for controller, root in cgroups.hierarchies().items():
        group = cgroups.Cgroup(parent, f"probe-{os.getpid()}", {controller: root})
        try:
            group.create(1024**3, 100, 1000)
            os.close(group.entries()[0])
        except OSError:
            pass
        else:
            usable[controller] = root
        group.remove()
    return usable
