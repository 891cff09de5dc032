"""Log lines of every process: for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import logging.config
from datetime import UTC, datetime
from typing import Any, Literal

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

Format = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, error, and what the caller added as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        entry.update((key, value) for key, value in vars(record).items() if key not in _PLAIN)
        return json.dumps(entry, default=str)


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
    """Let this process log that way, to standard error."""
    logging.config.dictConfig(dictionary(form, level))
