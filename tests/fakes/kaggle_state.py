"""The state behind `kaggle_stub.py`: blobs, datasets, versions, injected faults.

[R] marks what is copied from the real service (client source, issue threads); [A] what is assumed.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import threading
import time
import uuid
import zipfile
from pathlib import Path
from typing import Any


class HttpError(Exception):
    """Answered as JSON {"code", "message"} [R]."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


def iso(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(timespec="milliseconds")


class Faults:
    """Faults wait for their operation: an RPC's name, `PUT` (a part of an upload) or `GET` (a download).

    Keys: `op`, `name` (a pattern in the file's name or the RPC's body), `times`, `skip`, and what happens:
    `status`, `headers`, `delay`, `drop_before`, `drop_after` (bytes; for an RPC: did the work, lost the answer),
    `flip` (one byte differs), `expire` (of an upload).
    """

    def __init__(self) -> None:
        self.waiting: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, op: str, **what: Any) -> None:
        self.waiting.append({"op": op, "times": 1, **what})

    def take(self, op: str, name: str) -> dict[str, Any]:
        with self._lock:
            for fault in self.waiting:
                if fault["op"] != op or fault["times"] <= 0 or not re.search(fault.get("name", ""), name):
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                fault["times"] -= 1
                self.taken.append(fault)
                return fault
        return {}


class Blob:
    """An uploaded file; storage keeps partial uploads in multiples of 256 KiB [R: GCS documentation]."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.token = f"tok-{uuid.uuid4().hex}"
        self.name, self.size, self.got, self.complete = name, size, 0, False
        self.path = folder / self.token
        self.path.touch()
        self._md5: str | None = None

    @property
    def md5(self) -> str:
        """Base64, of the bytes at rest [R: x-goog-hash]."""
        if self._md5 is None:
            with self.path.open("rb") as file:
                self._md5 = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
        return self._md5

    def flip(self) -> None:
        """Corruption at rest: same size, one byte differs."""
        with self.path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        self._md5 = None


class Version:
    def __init__(self, number: int, files: dict[str, Blob], notes: str, processing: float) -> None:
        self.number, self.files, self.notes, self.processing = number, files, notes, processing
        self.created, self.failed, self.deleted = time.time(), False, False

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.files.values())

    @property
    def status(self) -> str:
        if self.failed:
            return "FAILED"
        age = time.time() - self.created
        if age >= self.processing:
            return "READY"
        return "BLOBS_RECEIVED" if age < self.processing / 2 else "INDIVIDUAL_BLOBS_COMPRESSED"


class Dataset:
    def __init__(self, number: int, title: str, private: bool) -> None:
        self.id, self.title, self.private = number, title, private
        self.versions: list[Version] = []

    @property
    def current(self) -> Version | None:
        """[A] moves only when a version is READY."""
        ready = [v for v in self.versions if v.status == "READY" and not v.deleted]
        return ready[-1] if ready else None


class State:
    def __init__(self, root: Path, processing: float, zip_wrap_over: int | None, quota: int | None) -> None:
        self.folder = root / "blobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processing, self.zip_wrap_over, self.quota = processing, zip_wrap_over, quota
        self.force_public = False  # the service ignores isPrivate
        self.lock = threading.RLock()
        self.faults = Faults()
        self.log: list[dict[str, Any]] = []
        self.blobs: dict[str, Blob] = {}  # by token
        self.sessions: dict[str, Blob] = {}  # by session id
        self.datasets: dict[str, Dataset] = {}  # by owner/slug

    def begin_upload(self, name: str, size: int) -> tuple[Blob, str]:
        if "/" in name:
            raise HttpError(400, "name must be a base name")  # [A] the client only ever sends base names [R]
        blob, session = Blob(self.folder, name, size), uuid.uuid4().hex
        with self.lock:
            self.blobs[blob.token] = blob
            self.sessions[session] = blob
        return blob, session

    def dataset(self, body: dict[str, Any]) -> Dataset:
        found = self.datasets.get(f"{body.get('ownerSlug')}/{body.get('datasetSlug')}")
        if found is None:
            # [R] an unknown dataset, or somebody else's, is answered 403 on several routes.
            raise HttpError(403, "Permission 'datasets.get' was denied")
        return found

    def version(self, dataset: Dataset, number: int | None) -> Version:
        if not number:
            if dataset.current is None:
                raise HttpError(404, "no ready version")
            return dataset.current
        for version in dataset.versions:
            if version.number == number and not version.deleted:
                if version.status != "READY":
                    raise HttpError(404, "version not ready")  # [R: kaggle-cli issue 890]
                return version
        raise HttpError(404, "no such version")

    def collect(self, node: dict[str, Any], prefix: str = "") -> dict[str, Blob]:
        files: dict[str, Blob] = {}
        for item in node.get("files") or []:
            blob = self.blobs.get(item.get("token", ""))
            if blob is None or not blob.complete:
                raise HttpError(400, "Failed to resolve the necessary information from the request")  # [A]
            files.update(self._unpacked(blob, prefix))
        for folder in node.get("directories") or []:
            files.update(self.collect(folder, f"{prefix}{folder.get('name', '')}/"))
        return files

    def _unpacked(self, blob: Blob, prefix: str) -> dict[str, Blob]:
        if not blob.name.lower().endswith(".zip") or not zipfile.is_zipfile(blob.path):
            return {prefix + blob.name: blob}
        files = {}  # [R] archives are decompressed into a folder named after their stem
        with zipfile.ZipFile(blob.path) as archive:
            for member in archive.namelist():
                inner = Blob(self.folder, Path(member).name, 0)
                inner.path.write_bytes(archive.read(member))
                inner.size, inner.complete = inner.path.stat().st_size, True
                files[f"{prefix}{blob.name[:-4]}/{member}"] = inner
        return files

    def add_version(self, dataset: Dataset, body: dict[str, Any], notes: str) -> None:
        """A version is exactly the files that were sent [R]."""
        files = self.collect(body)
        if not files:
            raise HttpError(400, "no files")
        version = Version(len(dataset.versions) + 1, files, notes, self.processing)
        # [R: kaggle-cli issue 284] over quota, the create call still says ok
        version.failed = self.quota is not None and dataset.private and version.size > self.quota
        if body.get("deleteOldVersions"):
            for old in dataset.versions:
                old.deleted = True
        dataset.versions.append(version)
