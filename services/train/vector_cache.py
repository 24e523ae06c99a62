"""Vectors on disk by the content of what they describe: append-only, one file per writer.

A record is a 32-byte key, a float16 vector and a checksum over both. A writer that is killed leaves at
most one torn record at the end of its own file, which nobody appends to again; a damaged record
counts as absent. Several processes may use one folder at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shared import atomic
from shared.errors import from_os_error

KEY_BYTES = 32
CHECK_BYTES = 16
Vector = npt.NDArray[np.float16]


class VectorCache:
    """Float16 vectors [dim] by sha256 key, in one folder; use it as a context manager.

    Args:
        folder: made if absent. It must name everything that the vectors depend on.
        dim: of every vector.
        about: what the folder's name stands for, written beside the records for a person to read.
    """

    def __init__(self, folder: Path, dim: int, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.record = np.dtype([("key", f"V{KEY_BYTES}"), ("vector", "<f2", (dim,)), ("check", f"V{CHECK_BYTES}")])
        self.damaged = 0  # records met that failed their checksum
        self._shards: list[npt.NDArray[Any]] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._appending: int | None = None
        if not (folder / "about.json").exists():
            atomic.write_json(folder / "about.json", dict(about))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._appending is not None:
            os.close(self._appending)
            self._appending = None
        self._shards.clear()

    def load(self, wanted: Iterable[bytes]) -> set[bytes]:
        """Read what is on disk now, and return those of the `wanted` keys that are there and whole."""
        wanted = set(wanted)
        self._shards.clear()
        self._places.clear()
        for path in sorted(self.folder.glob("shard-*.bin")):
            count = path.stat().st_size // self.record.itemsize
            if count == 0:
                continue
            self._shards.append(np.memmap(path, self.record, mode="r", shape=(count,)))
            # One pass over the keys; the vectors of other proteins are not read.
            for row, key in enumerate(self._shards[-1]["key"]):
                if (name := key.tobytes()) in wanted and name not in self._places:
                    self._admit(name, row)
        return set(self._places)

    def __getitem__(self, key: bytes) -> Vector:
        """A vector that the last `load` found."""
        shard, row = self._places[key]
        vector: Vector = self._shards[shard][row]["vector"]
        return vector

    def append(self, keys: Sequence[bytes], vectors: Vector) -> None:
        """Keep `vectors` [n, dim], but those that the last `load` found; a reader sees them after its next `load`.

        Raises:
            CannotWrite: the folder is read-only or the disk full.
        """
        new = [row for row, key in enumerate(keys) if key not in self._places]
        records = np.zeros(len(new), self.record)
        for record, row in zip(records, new, strict=True):
            vector = vectors[row].astype("<f2")
            record["key"], record["vector"], record["check"] = keys[row], vector, _checksum(keys[row], vector.tobytes())
        try:
            if self._appending is None:
                self._appending = self._new_shard()
            data = memoryview(records.tobytes())
            while data:
                data = data[os.write(self._appending, data) :]
        except OSError as error:
            raise from_os_error(error, str(self.folder)) from error

    def _admit(self, key: bytes, row: int) -> None:
        record = self._shards[-1][row]
        if record["check"].tobytes() == _checksum(key, record["vector"].tobytes()):
            self._places[key] = (len(self._shards) - 1, row)
        else:
            self.damaged += 1

    def _new_shard(self) -> int:
        number = len(list(self.folder.glob("shard-*.bin")))
        while True:
            try:
                return os.open(
                    self.folder / f"shard-{number:05d}.bin", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644
                )
            except FileExistsError:
                number += 1


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(key + payload).digest()[:CHECK_BYTES]
