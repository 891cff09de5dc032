"""Log lines of every process: for people, or one JSON object a line.

A message that is about a job begins with ``job %s``, or with ``job %s attempt %d``, and its arguments with
those. In JSON they have names of their own too, so that all that was said of a job is found by its id.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

Format = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    Its names: time (ISO 8601, UTC), level, logger, message; job and attempt where it is about one; error, a
    traceback; and what the caller added as ``extra``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_about(record))
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        entry.update((key, value) for key, value in vars(record).items() if key not in _PLAIN)
        return json.dumps(entry, default=str)


def _about(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    if isinstance(record.args, tuple) and record.msg.startswith("job %s"):
        yield "job", record.args[0]
        if record.msg.startswith("job %s attempt %d"):
            yield "attempt", record.args[1]


def dictionary(form: Format, level: str) -> dict[str, Any]:
    """The configuration for `logging.config.dictConfig`; gunicorn's and RQ's lines take the same way."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            "json": {"()": "uws_server.logs.JsonFormatter"},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            "rq": {"level": "WARNING"},
        },
    }


def configure(form: Format, level: str) -> None:
    """Let this process log that way, to standard error, errors included that nobody catches."""
    logging.config.dictConfig(dictionary(form, level))
    catch(form)


def catch(form: Format) -> None:
    """Have errors that nobody catches written as log lines too, where those are JSON."""
    if form == "json":
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
        sys.unraisablehook = _unraisable


def say(sentence: str) -> None:
    """Write a last sentence to standard error: as it is, or as a log line where those are JSON."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers):
        logging.getLogger("uws_server").critical("%s", sentence)
    else:
        sys.stderr.write(f"uws-server: {sentence}\n")


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("uws_server").critical("the process ends by an error", exc_info=(kind, error, trace))


def _uncaught_in_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is not SystemExit:  # which ends a thread quietly
        name = what.thread.name if what.thread else "?"
        logging.getLogger("uws_server").error(
            "thread %s ends by an error", name, exc_info=what.exc_value or what.exc_type()
        )


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    logging.getLogger("uws_server").error("an error that nobody can catch", exc_info=what.exc_value)
