"""What `uws-server check` looks at: whether this machine and these settings keep the server's promises."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import unquote, urlsplit

from job_templates import catalog
from runners import sites
from uws_server import redis_server
from uws_server.config import load
from uws_server.config_file import BadConfig
from uws_server.factory import Services
from uws_server.findings import Finding, Grade
from uws_server.redis_server import NoRedis
from uws_server.settings import Settings
from uws_server.storage.base import NotStored, ObjectStore, StorageUnavailable
from uws_server.store.base import StoreUnavailable
from uws_server.up.run import CannotStart, only_one, running

_REDIS_SECONDS = 30.0
_ANSWER_SECONDS = 20.0
_LINK_SECONDS = 60


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, each finding as soon as it is known. What it makes it removes again."""
    yield from _templates(settings)
    for name in settings.sites:
        yield from _isolation(settings, name)
        yield from sites.examine(settings, name)
    yield from _secret(settings)
    try:
        yield from _stores(settings)
    except BadConfig as error:
        yield Finding("settings", str(error), Grade.BROKEN)


def _templates(settings: Settings) -> Iterator[Finding]:
    problems = catalog.check(settings.templates.directories, settings.templates.shipped)
    for problem in problems:
        yield Finding("templates", problem, Grade.BROKEN)
    if not problems:
        count = len(catalog.load(settings.templates.directories, settings.templates.shipped))
        yield Finding("templates", f"{count} services, all of them right.")


def _isolation(settings: Settings, name: str) -> Iterator[Finding]:
    subject = f"isolation at {name}"
    try:
        found = sites.isolation(settings, name)
    except BadConfig as error:
        yield Finding(subject, str(error), Grade.BROKEN)
        return
    for sentence in found.holds:
        yield Finding(subject, sentence)
    for sentence in found.lacks:
        yield Finding(subject, sentence, Grade.WEAK)


def _secret(settings: Settings) -> Iterator[Finding]:
    if settings.secret_file is None:
        return
    try:
        settings.secret()
    except BadConfig as error:
        if "KUBERNETES_SERVICE_HOST" in os.environ and not settings.secret_file.exists():
            words = "not looked at: it is not in this pod, nor need be but in those of web and start"
            yield Finding("secret", words, Grade.WEAK)
        else:
            yield Finding("secret", str(error), Grade.BROKEN)
    else:
        yield Finding("secret", f"{settings.secret_file} can be read.")


def _stores(settings: Settings) -> Iterator[Finding]:
    data = settings.data.absolute()
    if not settings.redis.url and (present := running(data)):
        yield Finding("redis", "uws-server up runs on this data directory; its Redis is looked at.")
        yield from _examine_stores(load(present, environment={}), settings.objects_url)
        return
    with contextlib.ExitStack() as stack:
        try:
            tried = _tried_out(settings, stack)
        except OSError as error:
            sentence = f"{error.filename} cannot be made or written: {error.strerror}"
            yield Finding("data", f"{sentence}; --data names another directory", Grade.BROKEN)
            return
        if tried.data != settings.data:
            yield Finding(
                "data",
                f"{data} holds no data yet; what follows was tried out in a passing directory there.",
            )
        if settings.redis.url:
            yield from _examine_stores(tried, settings.objects_url)
            return
        try:
            stack.enter_context(only_one(tried.data.absolute()))
            server = stack.enter_context(_own_redis(tried))
        except (NoRedis, CannotStart) as error:
            yield Finding("redis", str(error), Grade.BROKEN)
            return
        yield Finding("redis", f"{server.program} starts.")
        own = tried.redis.model_copy(update={"url": server.url})
        yield from _examine_stores(tried.model_copy(update={"redis": own}), settings.objects_url)


def _tried_out(settings: Settings, stack: contextlib.ExitStack) -> Settings:
    """The settings with a passing directory in place of each one that the server would have to make first.

    Such a directory lies where the real one would, so that disk and permissions are the same, and goes with
    ``stack``: a look leaves nothing behind, and takes away nothing that another process made meanwhile.

    :raises OSError: it cannot be made, so the real one could not either.
    """
    changed: dict[str, object] = {}
    mark = "secret" if settings.redis.url else "redis"
    if not (settings.data / mark).exists():
        changed["data"] = _passing(settings.data.absolute(), stack)
    url = urlsplit(settings.objects.url)
    if url.scheme == "file" and not Path(unquote(url.path), "objects").exists():
        place = _passing(Path(unquote(url.path)), stack)
        changed["objects"] = settings.objects.model_copy(update={"url": place.as_uri()})
    return settings.model_copy(update=changed)


def _passing(wanted: Path, stack: contextlib.ExitStack) -> Path:
    there = next(path for path in (wanted, *wanted.parents) if path.exists())
    try:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix=".uws-check-", dir=there))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(wanted)) from error
    return Path(made)


@contextlib.contextmanager
def _own_redis(settings: Settings) -> Iterator[redis_server.RedisServer]:
    """The Redis that `up` would run, for as long as it is looked at."""
    found = redis_server.find(settings.redis.program)
    server = redis_server.prepare(settings.data.absolute(), found)
    lock = redis_server.lock(server)
    try:
        process = subprocess.Popen(
            server.command, pass_fds=(lock,), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
    finally:
        os.close(lock)
    try:
        if not redis_server.wait_until_ready(server, process.pid, _REDIS_SECONDS):
            raise NoRedis(f"{server.program} does not start in {server.directory}")
        yield server
    finally:
        process.terminate()
        process.wait()
        server.leave_no_socket()


def _examine_stores(settings: Settings, objects_url: str) -> Iterator[Finding]:
    # A store elsewhere signs links with a key of its own.
    services = Services(settings, signs=urlsplit(settings.objects_url).scheme == "file")
    try:
        problems = services.store.check()
    except StoreUnavailable as error:
        yield Finding("redis", f"it does not answer: {error}", Grade.BROKEN)
    else:
        grade = Grade.BROKEN if settings.redis.durable else Grade.WEAK
        for problem in problems:
            yield Finding("redis", problem, grade)
        if not problems:
            yield Finding(
                "redis", "What it acknowledges is on disk: append-only file, fsynced at each write."
            )
    yield from _examine_objects(services, objects_url)


def _examine_objects(services: Services, url: str) -> Iterator[Finding]:
    subject = f"objects at {url}"
    key = f"check/{secrets.token_hex(8)}"
    content = secrets.token_bytes(1000)
    try:
        services.objects.put(key, content)
        same = b"".join(services.objects.read(key)) == content
        services.objects.delete(key)
    except (StorageUnavailable, NotStored, OSError) as error:
        yield Finding(subject, f"an object cannot be written and read: {error}", Grade.BROKEN)
    else:
        if same:
            yield Finding(subject, "An object was written, read and removed.")
        else:
            yield Finding(subject, "an object that was written reads differently", Grade.BROKEN)
        if urlsplit(services.settings.objects_url).scheme != "file":  # those links lead to our own web
            yield from _examine_links(subject, services.objects)


def _examine_links(subject: str, objects: ObjectStore) -> Iterator[Finding]:
    """Whether the store takes the links that we sign: agents store by them, clients are sent to them."""
    key = f"check/{secrets.token_hex(8)}"
    content = secrets.token_bytes(1000)
    try:
        with _followed(objects.sign("PUT", key, _LINK_SECONDS, len(content)), content):
            pass
        with _followed(objects.sign("GET", key, _LINK_SECONDS)) as answer:
            same = answer.read() == content
        yield (
            Finding(subject, "Signed links store and give objects.")
            if same
            else Finding(subject, "a signed link gives something else than was stored", Grade.BROKEN)
        )
        with _followed(objects.sign("GET", key, _LINK_SECONDS, public=True)) as answer:
            answer.read()
    except OSError as error:
        # The link is a secret, and not in what urllib says.
        sentence = f"a signed link does not work: {getattr(error, 'reason', error)}"
        yield Finding(subject, sentence, Grade.BROKEN)
    except StorageUnavailable as error:
        yield Finding(subject, f"no link can be signed: {error}", Grade.BROKEN)
    finally:
        with contextlib.suppress(StorageUnavailable):
            objects.delete(key)


def _followed(link: str, content: bytes | None = None) -> HTTPResponse:
    method = "GET" if content is None else "PUT"
    request = urllib.request.Request(link, content, method=method)  # noqa: S310 - we made it
    request.add_header("Content-Type", "application/octet-stream")
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=_ANSWER_SECONDS)  # noqa: S310
    return answer
