"""Rules for every test, as a pytest plugin: nothing is skipped in CI, nothing is sent off this machine.

Property tests have no deadline for an example (a busy machine is no failure); in CI they repeat exactly.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

# The tests' clusters (tests/cluster/layout.py): network namespaces on this machine, with no route further.
_NAMESPACES = ipaddress.ip_network("10.250.0.0/16")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

settings.register_profile("suite", deadline=None, derandomize=IN_CI, print_blob=True)
settings.load_profile("suite")


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, *, in_ci: bool) -> None:
    """Turn a skip into a failure in CI: a test that cannot run there shows nothing."""
    if in_ci and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report, in_ci=IN_CI)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report, in_ci=IN_CI)
    return report


def is_this_machine(host: object) -> bool:
    """Whether a host as the socket module knows it (name, address, bytes, None) is this machine."""
    name = host.decode("idna") if isinstance(host, bytes) else str(host or "")
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return name in {"", "localhost", socket.gethostname()}
    return address.is_loopback or address.is_unspecified or address in _NAMESPACES


def refuse_other_machines(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: looking up, connecting to or sending to another machine is an error."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in {"socket.connect", "socket.sendto"} and isinstance(args[-1], tuple):
        host = args[-1][0]
    else:
        return
    if not is_this_machine(host):
        raise PermissionError(f"tests talk to this machine only, not to {host}")


sys.addaudithook(refuse_other_machines)
