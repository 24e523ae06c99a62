"""The outermost layer: a request id, one log line, the headers of every answer, and the last net under a route."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.xai_worker.logs import CONTEXT

_GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}")
_LOG = logging.getLogger("gowhy.http")

# For every answer; a route that sends a page sets its own policy.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Observer = Callable[[str, str, int, float], None]


def request_id() -> str:
    """The id of the request that this task serves."""
    return (CONTEXT.get() or {}).get("request_id", "-")


class RequestContext:
    """ASGI layer; `observe(method, route, status, seconds)` is told of every request."""

    def __init__(self, app: ASGIApp, observe: Observer) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        known = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex
        CONTEXT.set({"request_id": known})
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = known
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception:
            _LOG.exception("unhandled")
            if status:  # too late for another answer: the server cuts the connection
                raise
            await _internal(answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None) or "(none)"
            self.observe(scope["method"], route, status or 499, seconds)
            fields = {"method": scope["method"], "path": scope["path"][:200], "status": status or 499}
            _LOG.info("request", extra={"fields": {**fields, "ms": round(1000 * seconds, 2)}})


async def _internal(send: Send) -> None:
    # Written by hand: whatever broke the application may break its renderer.
    body = {
        "type": "urn:gowhy:problem:internal",
        "title": "An internal error; the request id finds it in the log",
        "status": 500,
        "request_id": request_id(),
    }
    headers = [(b"content-type", b"application/problem+json")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
