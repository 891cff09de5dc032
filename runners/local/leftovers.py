"""End what a dead supervisor left of its attempt, as proof that nothing of it runs on."""

from __future__ import annotations

import os
import time
from pathlib import Path

from runners.local import cgroups, processes, site_files

_PATIENCE = 2.0  # seconds one look spends at most


def end_leftovers(directory: Path) -> bool:
    """Kill what a dead supervisor left of the attempt; True when nothing of it is left.

    The kernel has done so already, unless user code ran without isolation. Nothing is killed by
    its bare pid.
    """
    mark = site_files.read(str(directory), site_files.STARTED)
    plan = site_files.read(str(directory), site_files.PLAN)
    if plan is None or (mark is not None and mark["boot"] != processes.boot_id()):
        return True
    leaders = mark["leaders"] if mark is not None else []
    agent = (site_files.read(str(directory), site_files.STATE) or {}).get("agent")
    group = None
    if plan["cgroup"]:
        group = cgroups.Cgroup(plan["cgroup"]["parent"], plan["name"], plan["cgroup"]["roots"])
    sign = os.fsencode(f"UWS_OUTPUTS={plan['environment']['UWS_OUTPUTS']}")
    deadline = time.monotonic() + _PATIENCE
    while True:
        left = [identity for identity in leaders if processes.lives(identity)]
        if group is not None:
            members = [processes.identify(pid) for pid in group.members()]
            left += [identity for identity in members if identity[1] and identity[0] in group.members()]
        if plan["mode"] == "none":
            left += processes.marked(sign)
        elif plan["mode"] == "bubblewrap":
            # bwrap that was interrupted before it had tied its own processes together; code is not in it.
            left += processes.commanded(os.fsencode(f"{plan['work']}/outputs"))
        if agent and processes.lives(agent):
            left.append(agent)
        if not left:
            return True
        if time.monotonic() > deadline:
            return False
        for identity in left:
            processes.kill(identity)
        time.sleep(0.005)  # between two looks at what the kernel is taking away
