"""A loopback server that the real Kaggle client talks to: datasets, resumable uploads, signed downloads, faults.

    with KaggleStub(processing=0.3) as stub:
        stub.fault("PUT", name="b.bin", drop_after=1_000_000)

Or `python tests/fakes/kaggle_stub.py --port 8765`, and for the client KAGGLE_API_ENVIRONMENT=LOCALHOST with
http_proxy=http://127.0.0.1:8765.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when started as a program

from fakes.kaggle_state import Blob, Dataset, HttpError, State, iso

USER, KEY = "tester", "k" * 32
GRANULE = 256 * 1024


class Hangup(Exception):
    """Close the socket without an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    state: State

    def log_message(self, *args: Any) -> None:
        pass

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def body(self) -> Any:
        """Blocks of the request body; a zero-byte file is sent chunked by the client [R]."""
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0 and (block := self.rfile.read(min(65536, left))):
            left -= len(block)
            yield block

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def handle_any(self) -> None:
        path = self.path
        if path.startswith("http://"):  # used as an http_proxy
            path = "/" + path.split("/", 3)[3]
        try:
            if path.startswith("/upload/"):
                self.put_upload(path.split("/")[2])
            elif path == "/stub/counts":
                self.answer_json(self.counts())
            elif path.startswith("/gcs/"):
                self.get_file(urllib.parse.unquote(path.split("?")[0]))
            elif (found := re.match(r"^(?:/api)?/v1/[\w.]+/(\w+)$", path)) and self.command == "POST":
                self.call(found[1])
            else:
                raise HttpError(404, f"no route {self.command} {path}")
        except Hangup:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        except HttpError as error:
            self.answer_json({"code": error.status, "message": error.message}, error.status, error.headers)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the names that http.server calls

    def counts(self) -> dict[str, Any]:
        """What a program that started this one wants to know."""
        puts = [item for item in self.state.log if item["op"] == "PUT" and item["name"] != "MANIFEST.json"]
        versions = {name: len(dataset.versions) for name, dataset in self.state.datasets.items()}
        return {"content_bytes": sum(item["bytes"] for item in puts), "versions": versions}

    # -- uploads -------------------------------------------------------------------------------------------------

    def put_upload(self, session: str) -> None:
        blob = self.state.sessions.get(session)
        if blob is None:
            list(self.body())
            raise HttpError(404, "upload session expired")
        wanted = self.headers.get("Content-Range") or ""
        fault = self.state.faults.take("PUT", blob.name)
        record = {
            "op": "PUT",
            "name": blob.name,
            "range": wanted,
            "auth": self.headers.get("Authorization"),
            "bytes": 0,
        }
        self.state.log.append(record)
        time.sleep(fault.get("delay", 0))
        if fault.get("drop_before"):
            raise Hangup
        if "status" in fault:
            list(self.body())
            if fault.get("expire"):
                self.state.sessions.pop(session)
            return self.answer(fault["status"], b"injected", fault.get("headers"))
        if wanted.startswith("bytes */"):  # how much is there?
            return self.answer(200) if blob.complete else self.answer(308, headers=self.received(blob))
        start = int(re.match(r"bytes (\d+)-", wanted)[1]) if wanted else 0
        if start > blob.got:
            list(self.body())
            return self.answer(503, b"gap")
        record["bytes"] = self.store(blob, start, fault.get("drop_after"))
        if "drop_after" in fault:
            raise Hangup
        if blob.got != blob.size:
            return self.answer(308, headers=self.received(blob))
        blob.complete = True
        if fault.get("flip"):
            blob.flip()
        return self.answer_json({})

    def store(self, blob: Blob, start: int, stop_after: int | None) -> int:
        """Append the body; returns the bytes that travelled."""
        received = 0
        with blob.path.open("r+b") as file:
            file.seek(start)
            with contextlib.suppress(ConnectionError):
                for block in self.body():
                    kept = block if stop_after is None else block[: max(0, stop_after - received)]
                    file.write(kept)
                    received += len(kept)
                    if stop_after is not None and received >= stop_after:
                        break
            end = start + received
            blob.got = end if end == blob.size else end // GRANULE * GRANULE
            file.truncate(blob.got)
        return received

    @staticmethod
    def received(blob: Blob) -> dict[str, str]:
        return {"Range": f"bytes=0-{blob.got - 1}"} if blob.got else {}

    # -- downloads -----------------------------------------------------------------------------------------------

    def get_file(self, path: str) -> None:
        _, _, owner, slug, number, name = path.split("/", 5)
        version = self.state.version(self.state.dataset({"ownerSlug": owner, "datasetSlug": slug}), int(number))
        fault = self.state.faults.take("GET", name)
        wanted = self.headers.get("Range")
        self.state.log.append({"op": "GET", "name": name, "version": version.number, "range": wanted})
        time.sleep(fault.get("delay", 0))
        if "status" in fault:
            return self.answer(fault["status"], b"<Error>injected</Error>", fault.get("headers"))
        if name in version.files:
            blob = version.files[name]
            size, md5, file = blob.size, blob.md5, blob.path.open("rb")
        elif name.endswith(".zip") and name[:-4] in version.files:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(version.files[name[:-4]].path, Path(name[:-4]).name)
            size, md5 = file.tell(), ""
        else:
            raise HttpError(404, "no such object")
        with file:
            return self.send_range(file, size, md5, wanted, fault)

    def send_range(self, file: Any, size: int, md5: str, wanted: str | None, fault: dict[str, Any]) -> None:
        start, end, status = 0, size, 200
        headers = {"Content-Type": "application/octet-stream", "x-goog-hash": f"md5={md5}"}
        if wanted:
            found = re.match(r"bytes=(\d+)-(\d*)", wanted)
            start, status = int(found[1]), 206
            end = min(size, int(found[2]) + 1) if found[2] else size
            if start >= size:
                return self.answer(416)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(end - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        file.seek(start)
        left, stop = end - start, fault.get("drop_after")
        flip = fault.get("flip", False)
        while left > 0:
            block = file.read(min(1 << 20, left, stop if stop is not None else left))
            if flip and block:
                block, flip = bytes([block[0] ^ 1]) + block[1:], False
            self.wfile.write(block)
            left -= len(block)
            if stop is not None and (stop := stop - len(block)) <= 0:
                self.wfile.flush()
                raise Hangup
        return None

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, op: str) -> None:
        body = json.loads(b"".join(self.body()) or b"{}")
        self.state.log.append({"op": op, "body": body})
        fault = self.state.faults.take(op, json.dumps(body))
        time.sleep(fault.get("delay", 0))
        if "status" in fault:
            raise HttpError(fault["status"], "injected", fault.get("headers"))
        if fault.get("drop_before"):
            raise Hangup
        self.check_credentials()
        method = getattr(self, f"op_{op}", None)
        if method is None:
            raise HttpError(404, f"unknown call {op}")
        result = method(body)
        if fault.get("drop_after"):
            raise Hangup
        if result is not None:
            self.answer_json(result)

    def check_credentials(self) -> None:
        expected = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            raise HttpError(401, "Unauthenticated")

    def op_StartBlobUpload(self, body: dict[str, Any]) -> Any:  # noqa: N802 - named after the call, as all below
        blob, session = self.state.begin_upload(body.get("name", ""), int(body.get("contentLength", 0)))
        return {"token": blob.token, "createUrl": f"{self.base}/upload/{session}"}

    @staticmethod
    def accepted(owner: str, slug: str) -> dict[str, Any]:
        """No version number in the answer [R]."""
        return {"ref": f"/datasets/{owner}/{slug}", "status": "ok", "error": "", "invalidTags": []}

    def op_CreateDataset(self, body: dict[str, Any]) -> Any:  # noqa: N802
        owner, slug = body.get("ownerSlug"), body.get("slug")
        if owner != USER:
            return {"status": "error", "error": "You are not allowed to create a dataset as this owner."}
        with self.state.lock:
            if f"{owner}/{slug}" in self.state.datasets:
                return {"status": "error", "error": f'The requested title "{body.get("title")}" is already in use'}
            private = bool(body.get("isPrivate", False)) and not self.state.force_public
            dataset = Dataset(1000 + len(self.state.datasets), body["title"], private)
            self.state.add_version(dataset, body, "Initial release")
            self.state.datasets[f"{owner}/{slug}"] = dataset
        return self.accepted(owner, slug)

    def op_CreateDatasetVersion(self, body: dict[str, Any]) -> Any:  # noqa: N802
        with self.state.lock:
            dataset = self.state.datasets.get(f"{body.get('ownerSlug')}/{body.get('datasetSlug')}")
            if dataset is None or dataset.current is None:
                # [R: kagglehub issue 181] 403 while the first version is processed
                raise HttpError(403, "Permission 'datasets.update' was denied")
            self.state.add_version(dataset, body["body"], body["body"].get("versionNotes", ""))
        return self.accepted(body["ownerSlug"], body["datasetSlug"])

    def op_GetDatasetStatus(self, body: dict[str, Any]) -> Any:  # noqa: N802
        return {"status": self.state.dataset(body).versions[-1].status}  # [A] of the newest version

    def op_GetDataset(self, body: dict[str, Any]) -> Any:  # noqa: N802
        dataset = self.state.dataset(body)
        current = dataset.current
        if current is None:
            raise HttpError(403, "Permission 'datasets.get' was denied")  # [R]
        versions = [
            {
                "versionNumber": v.number,
                "creationDate": iso(v.created),
                "versionNotes": v.notes,
                "status": v.status.lower(),
            }
            for v in dataset.versions
            if not v.deleted
        ]
        return {
            "id": dataset.id,
            "ref": f"{body['ownerSlug']}/{body['datasetSlug']}",
            "title": dataset.title,
            "isPrivate": dataset.private,
            "currentVersionNumber": current.number,
            "totalBytes": current.size,
            "lastUpdated": iso(current.created),
            "versions": versions,
        }

    def op_DownloadDataset(self, body: dict[str, Any]) -> Any:  # noqa: N802
        version = self.state.version(self.state.dataset(body), body.get("datasetVersionNumber"))
        name = body["fileName"]
        if name not in version.files:
            raise HttpError(404, f"no such file {name}")
        limit = self.state.zip_wrap_over
        if limit is not None and version.files[name].size > limit:
            name += ".zip"  # [R: kaggle-cli PR 1184] some large files are served wrapped
        where = f"{body['ownerSlug']}/{body['datasetSlug']}/{version.number}/{urllib.parse.quote(name)}"
        self.answer(302, headers={"Location": f"{self.base}/gcs/{where}?X-Goog-Signature=stub"})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:  # clients legitimately hang up early
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class KaggleStub:
    def __init__(
        self,
        port: int = 0,
        root: Path | None = None,
        *,
        processing: float = 0.0,
        zip_wrap_over: int | None = None,
        quota: int | None = None,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="kaggle-stub-") if root is None else None
        folder = root or Path(self._temporary.name)
        self.state = State(folder, processing, zip_wrap_over, quota)
        self.server = Server(("127.0.0.1", port), type("Bound", (Handler,), {"state": self.state}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.fault = self.state.faults.add

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.state.log

    def dataset(self, slug: str) -> Dataset:
        return self.state.datasets[f"{USER}/{slug}"]

    def sent(self) -> int:
        """Bytes of file content that reached the server."""
        return sum(item.get("bytes", 0) for item in self.log if item["op"] == "PUT")

    def __enter__(self) -> KaggleStub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        if self._temporary:
            self._temporary.cleanup()


def environment(stub: KaggleStub, home: Path) -> dict[str, str]:
    """Variables that make the real client in another process talk to the stub."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "KAGGLE_CONFIG_DIR": str(home / "kaggle"),
        "KAGGLE_USERNAME": USER,
        "KAGGLE_KEY": KEY,
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": stub.url,
        "no_proxy": "",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--processing", type=float, default=0.0)
    arguments = parser.parse_args()
    with KaggleStub(arguments.port, processing=arguments.processing) as running:
        print("kaggle stub on", running.url, flush=True)
        threading.Event().wait()
