"""Resumable uploads to Kaggle's blob storage, continued across processes by content hash."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, BinaryIO

import requests

from shared.atomic import write_json
from shared.errors import ServiceUnavailable
from shared.stores.base import Blob, Meter, Transient
from shared.stores.kaggle_client import BUSY, Session, ask, raise_for, translated

# Kaggle's storage keeps an open upload for a week; its own client trusts one for six days.
TRUSTED_S = 6 * 24 * 3600.0
DONE = (200, 201)
EXPIRED = (404, 410)
READ_BYTES = 1 << 20


class Rest:
    """What is left of a file, as a request body that counts what was sent."""

    def __init__(self, file: BinaryIO, start: int, size: int, meter: Meter) -> None:
        self.file, self.left, self.meter = file, size - start, meter
        file.seek(start)

    def __len__(self) -> int:
        """Bytes left; requests takes the Content-Length from it."""
        return self.left

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        block = self.file.read(min(self.left, READ_BYTES if count < 0 else count))
        self.left -= len(block)
        if block:
            self.meter(len(block))
        return block


class Uploads:
    """Uploads of one account; what was begun is noted under `folder`, one file per content hash."""

    def __init__(self, client: Any, folder: Path, where: str) -> None:
        self.client, self.folder, self.where = client, folder, where
        self.session = Session()  # without credentials: an upload address is its own permission

    def send(self, blob: Blob, meter: Meter, *, again: bool) -> str:
        """Bring a file to Kaggle; returns the token that a version names it by.

        Raises:
            Transient: cut; the next call goes on where the storage stopped.
            ServiceUnavailable: refused. Nothing may be published then.
        """
        begun = None if again else self._noted(blob)
        if begun is None:
            begun = self._begin(blob)
        elif begun["done"]:
            return str(begun["token"])
        start = self._received(begun, blob)
        if start is not None:
            self._put(begun, blob, start, meter)
        self._note(blob, {**begun, "done": True})
        return str(begun["token"])

    def forget(self, sha256: str) -> None:
        """Drop the note of an upload: it was published, or Kaggle does not know it any more."""
        (self.folder / f"{sha256}.json").unlink(missing_ok=True)

    def _note(self, blob: Blob, note: dict[str, Any]) -> None:
        write_json(self.folder / f"{blob.sha256}.json", note)

    def _noted(self, blob: Blob) -> dict[str, Any] | None:
        try:
            note: dict[str, Any] = json.loads((self.folder / f"{blob.sha256}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        fresh = time.time() - note["begun"] < TRUSTED_S
        return note if fresh and (note["name"], note["size"]) == (Path(blob.name).name, blob.size) else None

    def _begin(self, blob: Blob) -> dict[str, Any]:
        from kagglesdk.blobs.types.blob_api_service import (  # noqa: PLC0415 - only with Kaggle
            ApiBlobType,
            ApiStartBlobUploadRequest,
        )

        request = ApiStartBlobUploadRequest()
        request.type, request.name = ApiBlobType.DATASET, Path(blob.name).name
        request.content_length, request.last_modified_epoch_seconds = blob.size, 0
        answer = ask(self.client.blobs.blob_api_client.start_blob_upload, request, self.where)
        note = {
            "token": answer.token,
            "url": answer.create_url,
            "name": request.name,
            "size": blob.size,
            "begun": time.time(),
            "done": False,
            "fresh": True,
        }
        self._note(blob, {**note, "fresh": False})
        return note

    def _received(self, begun: dict[str, Any], blob: Blob) -> int | None:
        """Bytes that the storage has; None when it has all."""
        if begun.get("fresh"):
            return 0
        with translated(self.where):
            answer = self.session.put(
                begun["url"], headers={"Content-Range": f"bytes */{blob.size}", "Content-Length": "0"}
            )
        if answer.status_code in DONE:
            return None
        if answer.status_code == 308:
            return int(answer.headers["Range"].rpartition("-")[2]) + 1 if "Range" in answer.headers else 0
        self._refused(answer, blob)
        raise AssertionError("_refused raises")

    def _put(self, begun: dict[str, Any], blob: Blob, start: int, meter: Meter) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{blob.size - 1}/{blob.size}"
        with blob.path.open("rb") as file, translated(self.where):
            answer = self.session.put(begun["url"], data=Rest(file, start, blob.size, meter), headers=headers)
        if answer.status_code == 308:
            raise Transient("the storage has not received all", where=self.where)
        if answer.status_code not in DONE:
            self._refused(answer, blob)

    def _refused(self, answer: requests.Response, blob: Blob) -> None:
        if answer.status_code in EXPIRED:
            self.forget(blob.sha256)
            raise Transient("the upload expired; it begins anew", where=self.where)
        if answer.status_code in BUSY:
            raise_for(answer.status_code, answer, self.where)
        self.forget(blob.sha256)
        raise ServiceUnavailable(
            f"upload of {blob.name} refused: HTTP {answer.status_code}",
            where=self.where,
            remedy="Nothing was published; run the same command again",
        )
