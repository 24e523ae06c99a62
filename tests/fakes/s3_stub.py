"""moto's S3 on loopback, behind a layer that injects faults."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from fakes.kaggle_state import Faults
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "checkpoints"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


class S3Stub:
    """Faults: `op` is the HTTP method; `status`, `delay`, `drop_before`, `drop_after` (bytes, of a GET), `flip`."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.fault = self.faults.add
        self.puts: list[tuple[str, int]] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self.serve, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/moto-api"):
            return self._app(environ, start)
        fault = self.faults.take(method, path)
        time.sleep(fault.get("delay", 0))
        if fault.get("drop_before"):
            return self.hang_up(environ)
        if "status" in fault:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{fault['status']} injected", [("Retry-After", "0"), ("Content-Length", "0")])
            return [b""]
        if method == "PUT" and "objects/" in path:
            self.puts.append((path, int(environ.get("CONTENT_LENGTH") or 0)))
        kept: list[Any] = []
        body = b"".join(self._app(environ, lambda *answer: kept.append(answer)))
        if fault.get("drop_after") is True:  # did the work, lost the answer
            return self.hang_up(environ)
        if "drop_after" in fault:
            start(*kept[0])
            return self.cut(body, fault["drop_after"], environ)
        if fault.get("flip") and method == "GET":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.get("flip") and method == "PUT":
            self.flip(path.partition(f"/{BUCKET}/")[2])
        start(*kept[0])
        return [body]

    @staticmethod
    def hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
        with contextlib.suppress(OSError):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def cut(self, body: bytes, after: int, environ: dict[str, Any]) -> Iterable[bytes]:
        yield body[:after]
        self.hang_up(environ)

    def stored(self, key: str) -> Any:
        """moto's own record of an object."""
        from moto.s3.models import s3_backends

        backend = next(iter(s3_backends.values()))["aws"]
        return backend.buckets[BUCKET].keys[key]

    def flip(self, key: str, at: int = 0) -> None:
        """Corruption at rest: same size, one byte differs."""
        record = self.stored(key)
        data = bytearray(record.value)
        data[at] ^= 1
        record.value = bytes(data)

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url)

    def sent(self) -> int:
        """Bytes of file content that reached the server."""
        return sum(size for _, size in self.puts)

    def __enter__(self) -> S3Stub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.client().create_bucket(Bucket=BUCKET)
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
