"""A loopback stand-in for the Hugging Face Hub, enough for `HfApi` on model repositories; large files by LFS, no Xet.

For the client: HF_ENDPOINT=<url>, HF_HUB_DISABLE_XET=1, HF_TOKEN=hf_x, before `huggingface_hub` is imported.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fakes.kaggle_state import Faults

LFS_SUFFIXES = (".safetensors", ".pt", ".bin", ".npy")
REGULAR_LIMIT = 10_000


class Hangup(Exception):
    """Close the socket without an answer."""


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class State:
    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}  # name -> private, commits [{oid, files}]
        self.lfs: dict[str, bytes] = {}  # sha256 -> bytes at rest
        self.log: list[tuple[str, str, int]] = []
        self.faults = Faults()
        self.refusing: tuple[str, int] | None = None  # part of a path, and the status that it gets every time
        self.force_public = False
        self.lock = threading.RLock()

    def commit(self, repository: str, revision: str) -> dict[str, Any] | None:
        commits = self.repositories[repository]["commits"]
        if revision in ("main", "HEAD"):
            return commits[-1]
        return next((commit for commit in commits if commit["oid"] == revision), None)

    def content(self, file: dict[str, Any]) -> bytes:
        return self.lfs[file["sha256"]] if "sha256" in file else file["data"]


class Handler(BaseHTTPRequestHandler):
    """Faults: `op` is `commit`, `lfs` (upload of content), `resolve` (download) or `info`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    state: State

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: Any = b"", headers: dict[str, Any] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Length": len(data), **(headers or {})}
        if not isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def handle_any(self) -> None:
        self.path_only = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.data = self.body()
        self.state.log.append((self.command, self.path_only, len(self.data)))
        if self.state.refusing is not None and self.state.refusing[0] in self.path_only:
            return self.refuse(self.state.refusing[1], "injected")
        try:
            for pattern, op, method in ROUTES:
                if found := re.match(pattern, self.path_only):
                    return self.with_faults(
                        op, lambda found=found, method=method: getattr(self, method)(*found.groups())
                    )
            self.refuse(404, f"no route {self.path_only}", "RepoNotFound")
        except Hangup:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        return None

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def with_faults(self, op: str, work: Any) -> None:
        self.fault = self.state.faults.take(op, self.path_only)
        time.sleep(self.fault.get("delay", 0))
        if "status" in self.fault:
            return self.refuse(self.fault["status"], "injected", headers=self.fault.get("headers"))
        if self.fault.get("drop_before"):
            raise Hangup
        with self.state.lock:
            work()
        return None

    def lost(self) -> bool:
        return bool(self.fault.get("drop_after"))

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    # -- routes --------------------------------------------------------------------------------------------------

    def who(self) -> None:
        self.answer(200, {"name": "tester", "type": "user", "auth": {}})

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def create_repository(self) -> None:
        wanted = json.loads(self.data)
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if name in self.state.repositories:
            # the real answer names the repository, too: the client reads it with exist_ok
            return self.answer(409, {"error": "You already created this model repo", "url": f"{self.base}/{name}"})
        private = bool(wanted.get("private", wanted.get("visibility") == "private")) and not self.state.force_public
        first = {"oid": hashlib.sha1(name.encode()).hexdigest(), "files": {}}
        self.state.repositories[name] = {"private": private, "commits": [first]}
        return self.answer(200, {"url": f"{self.base}/{name}", "name": name, "id": name})

    def preupload(self, repository: str, revision: str) -> None:
        present = self.state.commit(repository, revision)["files"]
        result = []
        for file in json.loads(self.data)["files"]:
            large = file["size"] > REGULAR_LIMIT or file["path"].endswith(LFS_SUFFIXES)
            old = present.get(file["path"])
            result.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": old.get("sha256", old["oid"]) if old else None,
                }
            )
        self.answer(200, {"files": result})

    def lfs_batch(self, repository: str) -> None:
        objects = []
        for wanted in json.loads(self.data)["objects"]:
            one = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.state.lfs:  # content that is known is not asked for
                one["actions"] = {"upload": {"href": f"{self.base}/lfs/{wanted['oid']}"}}
            objects.append(one)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, sha256: str) -> None:
        self.state.lfs[sha256] = bytes([self.data[0] ^ 1]) + self.data[1:] if self.fault.get("flip") else self.data
        if self.lost():
            raise Hangup
        self.answer(200)

    def create_commit(self, repository: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.data.splitlines() if line]
        current = self.state.commit(repository, revision)
        parent = lines[0]["value"].get("parentCommit")
        if parent and parent != current["oid"]:
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        files = dict(current["files"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = {"oid": git_id(data), "data": data, "size": len(data)}
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.state.lfs:
                    return self.refuse(400, "LFS pointer pointed to a file that does not exist")
                size = len(self.state.lfs[value["oid"]])
                files[value["path"]] = {"oid": git_id(value["oid"].encode()), "sha256": value["oid"], "size": size}
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = hashlib.sha1(
            (current["oid"] + repr(sorted((k, v["oid"]) for k, v in files.items()))).encode()
        ).hexdigest()
        self.state.repositories[repository]["commits"].append({"oid": oid, "files": files})
        if self.lost():
            raise Hangup
        return self.answer(
            200, {"success": True, "commitOid": oid, "commitUrl": f"{self.base}/{repository}/commit/{oid}"}
        )

    def info(self, repository: str, revision: str | None = None) -> None:
        if repository not in self.state.repositories:
            return self.refuse(404, "Repository not found", "RepoNotFound")
        commit = self.state.commit(repository, revision or "main")
        if commit is None:
            return self.refuse(404, "no such revision", "RevisionNotFound")
        siblings = [{"rfilename": name} for name in sorted(commit["files"])]
        private = self.state.repositories[repository]["private"]
        return self.answer(
            200,
            {
                "id": repository,
                "modelId": repository,
                "sha": commit["oid"],
                "private": private,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
            },
        )

    def tree(self, repository: str, revision: str) -> None:
        if repository not in self.state.repositories:
            return self.refuse(404, "Repository not found", "RepoNotFound")
        commit = self.state.commit(repository, revision)
        return self.answer(200, [self.entry(name, file) for name, file in sorted(commit["files"].items())])

    def paths_info(self, repository: str, revision: str) -> None:
        commit = self.state.commit(repository, revision)
        wanted = urllib.parse.parse_qs(self.data.decode()).get("paths") or json.loads(self.data)["paths"]
        self.answer(200, [self.entry(name, commit["files"][name]) for name in wanted if name in commit["files"]])

    @staticmethod
    def entry(name: str, file: dict[str, Any]) -> dict[str, Any]:
        entry = {"type": "file", "path": name, "size": file["size"], "oid": file["oid"]}
        if "sha256" in file:
            entry["lfs"] = {"oid": file["sha256"], "size": file["size"], "pointerSize": 134}
        return entry

    def resolve(self, repository: str, revision: str, name: str) -> None:
        commit = self.state.commit(repository, revision) if repository in self.state.repositories else None
        file = commit and commit["files"].get(name)
        if not file:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        data = self.state.content(file)
        headers = {"X-Repo-Commit": commit["oid"], "ETag": f'"{file.get("sha256", file["oid"])}"'}
        if "sha256" in file:
            headers |= {"X-Linked-ETag": f'"{file["sha256"]}"', "X-Linked-Size": len(data)}
        status = 200
        if wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else len(data)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}"
            data, status = data[start:end], 206
        if self.fault.get("flip"):
            data = bytes([data[0] ^ 1]) + data[1:]
        if "drop_after" in self.fault:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(data)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            self.wfile.write(data[: self.fault["drop_after"]])
            self.wfile.flush()
            raise Hangup
        return self.answer(status, data, headers)


NAME = r"([^/]+/[^/]+)"
ROUTES = (
    (r"^/api/whoami-v2$", "info", "who"),
    (r"^/api/validate-yaml$", "info", "validate_yaml"),
    (r"^/api/repos/create$", "create", "create_repository"),
    (rf"^/api/models/{NAME}/preupload/(.+)$", "preupload", "preupload"),
    (rf"^/{NAME}\.git/info/lfs/objects/batch$", "batch", "lfs_batch"),
    (r"^/lfs/(\w+)$", "lfs", "lfs_put"),
    (rf"^/api/models/{NAME}/commit/(.+)$", "commit", "create_commit"),
    (rf"^/api/models/{NAME}/paths-info/(.+)$", "info", "paths_info"),
    (rf"^/api/models/{NAME}/tree/([^/]+)", "info", "tree"),
    (rf"^/api/models/{NAME}(?:/revision/(.+))?$", "info", "info"),
    (rf"^/{NAME}/resolve/([^/]+)/(.+)$", "resolve", "resolve"),
)


class HubStub:
    def __init__(self) -> None:
        self.state = State()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": self.state}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.fault = self.state.faults.add

    def sent(self) -> int:
        """Bytes of file content that reached the server."""
        return sum(size for command, path, size in self.state.log if command == "PUT" and path.startswith("/lfs/"))

    def __enter__(self) -> HubStub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
