"""Wake-ups through RQ, and the worker that hears them.

One RQ queue for each site and kind of work, and each worker listens to exactly one: with several,
RQ pops with BLPOP and loses what a killed worker had popped. Nothing is read from RQ's registries.

A wake-up is coalesced by a flag, ``uws:wake:{kind}:{site}``: only who sets it enqueues, and the task
deletes it before it looks at the store. So a change is either seen by a task that runs already or
sets the flag anew. A flag whose task was lost expires after two seconds, after which the next
wake-up, or the reconciler's, enqueues again.

Cost of a wake-up in Redis: one round trip (SET and LLEN in one pipeline); for the one that finds the
flag unset another (MULTI, SADD, HSET, HSET, RPUSH, EXEC). The task costs its worker one DEL beside
RQ's own 63 commands, 7 ms in all with an fsync at each write.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from types import FrameType

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry
from rq import Queue as RqQueues
from rq import SimpleWorker

from uws_server.queue.base import Work

FLAG_MS = 2000
TASK_SECONDS = 60
TASKS = {Work.START: "runners.tasks.start_work", Work.STOP: "runners.tasks.stop_work"}
"""By dotted name only: what wakes a worker must not import what the worker runs."""

_MOST_QUEUED = 8  # enough to be heard; with no worker at all the queue stays this short

_log = logging.getLogger(__name__)


def connect(url: str) -> redis.Redis:
    """A connection that says at once when Redis is not there; it reconnects by itself, once a call.

    redis-py's own patience, 8 s with growing pauses, would hold up a request for a mere wake-up.
    """
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1), socket_timeout=10, socket_connect_timeout=5)


def queue_name(work: Work, site: str) -> str:
    """The name of the one RQ queue for this kind of work at this site."""
    return f"uws-{work.value}-{site}"


class WorkerBroke(Exception):
    """Something ended a worker, most likely Redis going away in the middle of a task."""


class RqQueue:
    """See `uws_server.queue.base.Queue` and `Taken`."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._queues: dict[tuple[Work, str], RqQueues] = {}

    def wake(self, site: str) -> None:
        """See `uws_server.queue.base.Queue`."""
        self._put(Work.START, site)

    def stop(self, site: str) -> None:
        """See `uws_server.queue.base.Queue`."""
        self._put(Work.STOP, site)

    def taken(self, work: Work, site: str) -> None:
        """See `uws_server.queue.base.Taken`."""
        self._redis.delete(_flag(work, site))

    def _put(self, work: Work, site: str) -> None:
        try:
            queue = self._queue(work, site)
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.set(_flag(work, site), 1, nx=True, px=FLAG_MS)
                pipeline.llen(queue.key)
                first, length = pipeline.execute()
            if first and length < _MOST_QUEUED:
                with self._redis.pipeline() as pipeline:
                    queue.enqueue_call(
                        TASKS[work],
                        args=(site,),
                        timeout=TASK_SECONDS,
                        result_ttl=0,
                        failure_ttl=TASK_SECONDS,
                        description=f"{work.value} {site}",
                        pipeline=pipeline,
                    )
                    pipeline.execute()
        except redis.RedisError as error:
            _log.warning("no wake-up to %s at %s: %s", work.value, site, error)

    def _queue(self, work: Work, site: str) -> RqQueues:
        key = (work, site)
        if key not in self._queues:
            self._queues[key] = RqQueues(queue_name(work, site), connection=self._redis, serializer="json")
        return self._queues[key]


def _nobody() -> None:
    """Called where nobody asks how a worker is."""


class RqWorker(SimpleWorker):
    """Runs tasks in its own process, where what they need was built once; 2.5 times as fast as forking.

    A signal lets the running task end. A task that fails is logged and dropped: the store knows what is
    still to be done. An error of Redis while a task runs ends the worker, and who supervises it starts
    another; while it is idle it waits for Redis to come back.
    """

    max_connection_wait_time = 1.0

    def __init__(
        self, work: Work, site: str, connection: redis.Redis, heard: Callable[[], None] = _nobody
    ) -> None:
        """``heard`` is called whenever the queue has been heard; without a task at least every 45 s."""
        self._heard = heard
        super().__init__(
            [RqQueues(queue_name(work, site), connection=connection, serializer="json")],
            connection=connection,
            default_result_ttl=0,
            worker_ttl=60,
            serializer="json",
        )
        self._asked_to_stop = False
        self.log_job_description = False
        self.log_result_lifespan = False

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say to Redis, and to who probes us, that we live: before each wait for a task, and in each."""
        super().heartbeat(timeout, pipeline)
        self._heard()

    def subscribe(self) -> None:
        """Nothing: RQ's remote commands (stop this, shut down) are not for us, nor a thread for them."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Let the running task end, then end."""
        self._asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def register_death(self) -> None:
        """Tell Redis, if it is there to be told; else what it keeps of us expires."""
        with contextlib.suppress(redis.RedisError):
            super().register_death()  # type: ignore[no-untyped-call]

    def run(self, *, burst: bool = False) -> None:
        """Work until SIGTERM or SIGINT; with ``burst`` until the queue is empty.

        :raises WorkerBroke: it ended for any other reason; RQ has logged which.
        """
        self.work(burst=burst, logging_level="WARNING")
        if not burst and not self._asked_to_stop:
            raise WorkerBroke("the worker ended without being asked to")


def _flag(work: Work, site: str) -> str:
    return f"uws:wake:{work.value}:{site}"
