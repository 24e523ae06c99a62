"""The service's own log: one JSON object a line on stderr, with the ids of the request and the job it concerns."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

# One dict per request or job. Threads that serve it copy the context but share the dict, so a note made there is seen.
CONTEXT: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)


def note(**fields: str) -> None:
    """Put fields on this and every later log line of the same request or job."""
    context = CONTEXT.get()
    if context is None:
        CONTEXT.set(dict(fields))
    else:
        context.update(fields)


class JsonLines(logging.Formatter):
    """`extra={"fields": {...}}` adds keys; exceptions become one string under `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= CONTEXT.get() or {}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every logger of this process through `JsonLines`; the server's own loggers too."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # `RequestContext` writes that line
