"""The system calls that a job may not make, each called by a job and, as the control, by what is none."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from runners.base import Cause
from runners.local import system_calls
from runners.local.isolation import LocalSettings, Mode, probe
from tests.local_site import local_site, modes

# Arguments that the kernel refuses by themselves, with another error than EPERM.
CALLS = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
told = {}
for name, number in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    told[name] = ctypes.get_errno() if result == -1 else -1
print(json.dumps(told))
"""
GO_ON = """
import multiprocessing, os, subprocess, threading
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
subprocess.run(["/bin/echo", "program"], check=True)
with multiprocessing.get_context("fork").Pool(2) as pool: print(sum(pool.map(abs, [1, -2])))
"""
OF_32_BITS = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000" "cd80" "c3"))  # mov eax, 20; int 0x80; ret: getpid
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print("called", call() > 0, flush=True)
"""


def numbers() -> dict[str, int]:
    column, _ = system_calls.MACHINES[platform.machine()]
    calls = {**system_calls.DENIED, "clone": system_calls.CLONE, "clone3": system_calls.CLONE3}
    return {name: each[column] for name, each in calls.items()}


@pytest.mark.covers("3:local-isolation")
@pytest.mark.parametrize("mode", modes())
def test_each_is_refused_and_only_to_jobs(tmp_path: Path, mode: Mode) -> None:
    given = json.dumps(numbers())
    outside = json.loads(subprocess.check_output([sys.executable, "-c", CALLS, given]))
    reached = {name for name, said in outside.items() if said != errno.EPERM}
    assert {"keyctl", "add_key", "unshare", "setns", "clone", "clone3"} <= reached
    if os.getuid() == 0:
        assert reached == set(numbers())
    with local_site(tmp_path / "site", mode) as site:
        spec = site.start("{python}", "-c", CALLS, given)
        assert site.ended(spec).outcome
        told = json.loads(site.log(spec))
        assert told.pop("clone3") == errno.ENOSYS
        assert {name: said for name, said in told.items() if said != errno.EPERM} == {}
        spec = site.start("{python}", "-c", GO_ON)
        outcome = site.ended(spec).outcome
        assert outcome is not None
        assert outcome.cause is Cause.SUCCEEDED, site.log(spec, "stderr")
        assert sorted(site.log(spec).split()) == ["3", "program", "thread"]


@pytest.mark.covers("3:local-isolation")
@pytest.mark.parametrize("mode", modes())
def test_no_other_machine_s_calls_go_around_the_filter(tmp_path: Path, mode: Mode) -> None:
    with local_site(tmp_path / "site", mode) as site:
        if platform.machine() == "x86_64":
            outcome = site.run("{python}", "-c", OF_32_BITS).outcome
            assert outcome is not None
            assert "SIGSYS (forbidden system call)" in outcome.message
        x32 = {name: number | 0x40000000 for name, number in numbers().items()}
        spec = site.start("{python}", "-c", CALLS, json.dumps(x32))
        assert site.ended(spec).outcome
        assert set(json.loads(site.log(spec)).values()) == {errno.EPERM}


@pytest.mark.covers("3:local-isolation")
def test_a_machine_without_a_filter_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "MACHINES", {})
    probe.cache_clear()
    for mode in modes():
        assert "System calls are not filtered." in " ".join(probe(LocalSettings(isolation=mode)).lacks)
    with local_site(tmp_path / "site", modes()[0]) as site:
        spec = site.start("/bin/grep", "Seccomp:", "/proc/self/status")
        assert site.ended(spec).outcome
        assert site.log(spec).split() == ["Seccomp:", "0"]
    probe.cache_clear()
