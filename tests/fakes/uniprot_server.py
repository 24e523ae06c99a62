"""A loopback HTTP server that answers like UniProt's search and fails on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# What to do instead of answering: gets the handler and the accessions asked for; True if it answered.
Fault = Callable[[BaseHTTPRequestHandler, list[str]], bool]


@dataclass
class UniprotServer:
    """`records` maps primary accessions to flat-file text; `faults` are tried once each, in order; `rule` always."""

    records: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)
    rule: Fault | None = None
    page_size: int = 500
    asked: list[list[str]] = field(default_factory=list)
    url: str = ""


def status(code: int, **headers: str) -> Fault:
    """Answer with an error status."""

    def fault(handler: BaseHTTPRequestHandler, _asked: list[str]) -> bool:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return fault


def body(content: bytes) -> Fault:
    """Answer 200 with other content."""

    def fault(handler: BaseHTTPRequestHandler, _asked: list[str]) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    return fault


def cut_off(handler: BaseHTTPRequestHandler, _asked: list[str]) -> bool:
    """Promise more bytes than are sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"ID   half a rec")
    handler.close_connection = True
    return True


@contextmanager
def serving(server: UniprotServer) -> Iterator[UniprotServer]:
    """Serve on a random loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            values = parse_qs(parts.query)
            asked = re.findall(r"accession:(\w+)", values["query"][0])
            offset = int(values.get("cursor", ["0"])[0])
            server.asked.append(asked)
            assert parts.path == "/uniprotkb/search"
            assert values["format"] == ["txt"]
            if server.faults and server.faults.pop(0)(self, asked):
                return
            if server.rule is not None and server.rule(self, asked):
                return
            found = [text for name, text in sorted(server.records.items()) if name in asked]
            content = "".join(found[offset : offset + server.page_size]).encode()
            self.send_response(200)
            if offset + server.page_size < len(found):
                query = parts.query.split("&cursor=")[0]
                following = f"{server.url}{parts.path}?{query}&cursor={offset + server.page_size}"
                self.send_header("Link", f'<{following}>; rel="next"')
            self.send_header("X-UniProt-Release", "2024_01")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now: float = 100.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
