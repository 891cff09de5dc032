"""Where a process kills itself: named callables of the real programs, patched from outside.

The server has no crash hooks. `arm` wraps one callable so that the process it runs in sends itself
SIGKILL just before the call or just after it returned. Standard library only, as it is also used in
the supervisor.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _always(*_args: Any, **_kwargs: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Point:
    """``target`` is ``module:name`` or ``module:Class.name``; ``only`` looks at the arguments of a call."""

    when: str  # before or after
    target: str
    only: Callable[..., bool] = _always


def _events(*names: str) -> Callable[..., bool]:
    def only(_changes: Any, _job_id: str, event: Any, *_rest: Any) -> bool:
        return type(event).__name__ in names

    return only


def _key(part: str) -> Callable[..., bool]:
    def only(_store: Any, key: str, *_args: Any, **_kwargs: Any) -> bool:
        return part in key

    return only


def _file(name: str) -> Callable[..., bool]:
    """Writing this file of the first attempt."""

    def only(directory: str, written: str, *_args: Any, **_kwargs: Any) -> bool:
        place = directory.removesuffix("/logs")
        return written == name and place.endswith(".1")

    return only


def _last_word(state_file: Any, state: str, **_kwargs: Any) -> bool:
    return state in ("ended", "lost") and str(state_file._directory).endswith(".1")


def _archiving(_store: Any, _before: Any, after: Any, _lease: Any = None) -> bool:
    return str(after.phase) == "ARCHIVED"


def _fenced(_store: Any, _before: Any, _after: Any, lease: Any = None) -> bool:
    return lease is not None


_WRITE = "runners.local.site_files:write"
_STORE = "uws_server.store.redis:RedisStore"
_OBJECTS = "uws_server.storage.file:FileStore"
_EVENTS = "uws_server.domain.events"
_APPLY = "uws_server.service.changes:Changes.apply"
_QUEUE = "uws_server.queue.rq:RqQueue"
_LOCAL = "runners.local.runner:LocalRunner"
_CLUSTER = "runners.kubernetes.runner:KubernetesRunner"
_AGENT = "runners.agent.door:Door"

POINTS: dict[str, Point] = {
    # any process that acts under a lease, when it has decided what to store
    "before fenced change": Point("before", f"{_STORE}.change", _fenced),
    # submit: the web process
    "before create": Point("before", f"{_STORE}.create"),
    "after create": Point("after", f"{_STORE}.create"),
    "before wake": Point("before", f"{_QUEUE}.wake"),
    "after wake": Point("after", f"{_QUEUE}.wake"),
    "before run": Point("before", f"{_STORE}.change"),
    "after run": Point("after", f"{_STORE}.change"),
    "after schedule": Point("after", f"{_STORE}.schedule_clearance"),
    "before upload": Point("before", f"{_OBJECTS}.put", _key("/parameters/")),
    "after upload": Point("after", f"{_OBJECTS}.put", _key("/parameters/")),
    # start: the worker
    "before claim": Point("before", f"{_STORE}.claim"),
    "after claim": Point("after", f"{_STORE}.claim"),
    "before start": Point("before", f"{_LOCAL}.start"),
    "after mkdir": Point("before", f"{_LOCAL}._may_launch"),
    "after spec": Point("before", f"{_LOCAL}.launch"),
    "after spawn": Point("before", _WRITE, _file("launched")),
    "after start": Point("after", f"{_LOCAL}.start"),
    "before launched": Point("before", _APPLY, _events("Launched")),
    "after launched": Point("after", _APPLY, _events("Launched")),
    "before post": Point("before", f"{_CLUSTER}._create"),
    "after post": Point("after", f"{_CLUSTER}._create"),
    # the supervisor
    "supervisor before mark": Point("before", _WRITE, _file("started")),
    "supervisor after mark": Point("after", _WRITE, _file("started")),
    "supervisor before exit": Point("before", _WRITE, _file("exit")),
    "supervisor after exit": Point("after", _WRITE, _file("exit")),
    "supervisor before last word": Point("before", "runners.local.state_file:StateFile.tell", _last_word),
    "supervisor after last word": Point("after", "runners.local.state_file:StateFile.tell", _last_word),
    # finish: agent, web, watcher
    "agent before links": Point("before", f"{_AGENT}.links"),
    "agent before put": Point("before", f"{_AGENT}.put"),
    "agent after put": Point("after", f"{_AGENT}.put"),
    "agent before manifest": Point("before", f"{_AGENT}.manifest"),
    "agent after manifest": Point("after", f"{_AGENT}.manifest"),
    "before manifest": Point("before", f"{_OBJECTS}.put", _key("/manifest.json")),
    "after manifest": Point("after", f"{_OBJECTS}.put", _key("/manifest.json")),
    "before result": Point("before", f"{_OBJECTS}.put", _key("/results/")),
    "after result": Point("after", f"{_OBJECTS}.put", _key("/results/")),
    "before taken": Point("before", _APPLY, _events("Launched", "Started")),  # whichever is seen first
    "before started": Point("before", _APPLY, _events("Started")),
    "after started": Point("after", _APPLY, _events("Started")),
    "before succeeded": Point("before", _APPLY, _events("Succeeded")),
    "after succeeded": Point("after", _APPLY, _events("Succeeded")),
    "before forget": Point("before", f"{_LOCAL}.forget"),
    "within forget": Point("before", "runners.local.trees:remove"),
    "after forget": Point("after", f"{_LOCAL}.forget"),
    "before lost": Point("before", _APPLY, _events("AttemptLost")),
    "after lost": Point("after", _APPLY, _events("AttemptLost")),
    # delete, abort, archive: web, worker, watcher, reconciler
    # In web, which says what it wishes only when it has read the job.
    "before abort": Point("before", f"{_EVENTS}:AbortRequested.after"),
    "after abort": Point("before", f"{_QUEUE}.stop"),
    "before delete": Point("before", f"{_EVENTS}:DeleteRequested.after"),
    "before stop": Point("before", f"{_LOCAL}.stop"),
    "within stop": Point("before", "runners.local.site_files:ring"),
    "after stop": Point("after", f"{_LOCAL}.stop"),
    "before gone": Point("before", _APPLY, _events("Gone")),
    "after gone": Point("after", _APPLY, _events("Gone")),
    "before clearing": Point("before", f"{_OBJECTS}.delete"),
    "after clearing": Point("after", f"{_OBJECTS}.delete"),
    "before cleared": Point("before", f"{_STORE}.cleared"),
    "after cleared": Point("after", f"{_STORE}.cleared"),
    "before due": Point("before", _APPLY, _events("DestructionDue")),
    "after due": Point("after", _APPLY, _events("DestructionDue")),
    "before archived": Point("before", f"{_STORE}.change", _archiving),
    "after archived": Point("after", f"{_STORE}.change", _archiving),
    "before lapse": Point("before", _APPLY, _events("ClaimLapsed")),
    "after lapse": Point("after", _APPLY, _events("ClaimLapsed")),
}


def arm(name: str, act: Callable[[], object] | None = None) -> None:
    """Have this process kill itself (or ``act``, once) at the point."""
    point = POINTS[name]
    act = act or kill_self
    module_name, _, path = point.target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    plain = vars(owner)[attribute]
    static = isinstance(plain, staticmethod)
    called = plain.__func__ if static else plain
    armed = [True]

    def fire(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if armed and point.only(*args, **kwargs):
            armed.clear()
            act()

    @functools.wraps(called)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if point.when == "before":
            fire(args, kwargs)
        result = called(*args, **kwargs)
        if point.when == "after":
            fire(args, kwargs)
        return result

    setattr(owner, attribute, staticmethod(wrapped) if static else wrapped)


def kill_self() -> None:
    """As `kill -9` would."""
    os.kill(os.getpid(), signal.SIGKILL)


def pause_self() -> None:
    """As `kill -STOP` would."""
    os.kill(os.getpid(), signal.SIGSTOP)
