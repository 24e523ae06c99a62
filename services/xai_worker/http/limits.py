"""How much a client may send, and how long it may take to send and to read."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.xai_worker.http.problem import Problem, render
from services.xai_worker.http_settings import HttpSettings


class Limits:
    """ASGI layer: 413 for a body over the cap, 408 for one that does not come, an end to a client that does not read.

    A body that is announced too large is refused unread; one that is not announced, at the byte over the cap.
    """

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within the limits."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _announced(scope) > self.settings.max_body_bytes:
            await render("too-large", self._cap(), {"Connection": "close"})(scope, receive, send)
            return
        body = _Body(receive, self.settings)

        async def patiently(message: Message) -> None:
            async with asyncio.timeout(self.settings.send_timeout_s):
                await send(message)

        await self.app(scope, body.receive, patiently)

    def _cap(self) -> str:
        return f"At most {self.settings.max_body_bytes} bytes are read"


class _Body:
    def __init__(self, receive: Receive, settings: HttpSettings) -> None:
        self._receive, self._settings = receive, settings
        self._size, self._complete = 0, False
        self._deadline = time.monotonic() + settings.body_timeout_s

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the client leaving; that may take as long as the stream does
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError as error:
            raise Problem("timeout", headers={"Connection": "close"}) from error
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._size > self._settings.max_body_bytes:
                detail = f"At most {self._settings.max_body_bytes} bytes are read"
                raise Problem("too-large", detail, headers={"Connection": "close"})
        return message


def _announced(scope: Scope) -> int:
    given = Headers(scope=scope).get("content-length", "")
    return int(given) if given.isdecimal() and len(given) < 20 else 0
