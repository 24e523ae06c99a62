"""uvicorn, with an end to clients that never finish their headers, and a stop that first says so."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.xai_worker.http.problem import KINDS, MEDIA_TYPE, TYPE_PREFIX
from services.xai_worker.http_settings import HttpSettings
from shared.errors import ServiceUnavailable

_LOG = logging.getLogger("gowhy.server")
MAX_HEADER_BYTES = 32 << 10
SWITCH_S = 0.0005


class LimitedProtocol(H11Protocol):
    """uvicorn ends idle connections, but waits for ever for headers that come a byte at a time."""

    settings: HttpSettings
    waiting: asyncio.TimerHandle | None = None
    one_too_many = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the headers."""
        super().connection_made(transport)
        # asyncio does so only where it made the socket itself. Without it head and body, two writes, are 40 ms apart:
        # the second waits for an acknowledgement that the client delays.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.one_too_many = len(self.connections) > self.settings.max_connections
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._headers_are_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait on where the headers are not complete."""
        if self.one_too_many:  # said only now: to close before the request is read would lose the answer
            self._refuse(503, "unavailable")
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._expect_headers()
        else:
            self._headers_are_here()

    def on_response_complete(self) -> None:
        """Between requests uvicorn's keep-alive limit holds."""
        super().on_response_complete()
        self._headers_are_here()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the parser's text stays here
        """Refuse what is not HTTP."""
        self._refuse(400, "malformed")

    def _expect_headers(self) -> None:
        if self.waiting is None:
            self.waiting = self.loop.call_later(self.settings.header_timeout_s, self._too_slow)

    def _headers_are_here(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def _too_slow(self) -> None:
        self.waiting = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._refuse(408, "timeout")

    def _refuse(self, status: int, kind: str) -> None:
        body = {"type": TYPE_PREFIX + kind, "title": KINDS[kind].title, "status": status, "request_id": "-"}
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} \r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(data)}\r\n"
        retry = "retry-after: 5\r\n" if status == 503 else ""
        self.transport.write(f"{head}{retry}connection: close\r\n\r\n".encode() + data)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves one application until SIGTERM or SIGINT.

    At the signal `on_stop` is called in a thread of its own; requests are answered until it returns, so that the
    readiness check says what is going on. A second signal ends at once.
    """

    def __init__(self, app: FastAPI, settings: HttpSettings, on_stop: Callable[[], Any]) -> None:
        self.settings, self._on_stop = settings, on_stop
        self._stopping = False
        config = uvicorn.Config(
            app,
            http=type("Protocol", (LimitedProtocol,), {"settings": settings}),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        super().__init__(config)
        # Threads that ask the database would else hold the event loop up for 5 ms at a time.
        sys.setswitchinterval(SWITCH_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - either means the same
        """Begin to stop; the second time stop."""
        if self._stopping:
            super().handle_exit(signal.SIGINT, frame)
            return
        self._stopping = True
        threading.Thread(target=self._stop, name="drain", daemon=True).start()

    def _stop(self) -> None:
        try:
            self._on_stop()
        except Exception:  # noqa: BLE001 - the process ends either way
            _LOG.exception("the queue did not stop cleanly")
        finally:
            self.should_exit = True


def listen(settings: HttpSettings) -> socket.socket:
    """The listening socket; its port is known before anything else starts.

    Raises:
        ServiceUnavailable: the address is taken or not this machine's.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise ServiceUnavailable(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}",
            remedy="Is a service running there already? Choose another with --port or GOWHY_XAI_PORT",
        ) from error
    listening.setblocking(False)
    return listening
