"""What was fetched before: an append-only file of JSON lines, one accession each.

A killed run leaves at most one torn line; it is skipped, and what it would have said is fetched again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from services.train.text.record import TextRecord
from shared.digests import canonical_json


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the service said about one accession; `record` is None where it knows none."""

    accession: str
    record: TextRecord | None
    release: str | None

    def to_line(self) -> bytes:
        """One line of the file."""
        record = self.record.to_json() if self.record else None
        return canonical_json({"accession": self.accession, "record": record, "release": self.release}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Fetched:
        """The inverse of `to_line`; ValueError, KeyError or TypeError for anything else."""
        value: dict[str, Any] = json.loads(line)
        record = value["record"]
        release = value["release"]
        return cls(str(value["accession"]), TextRecord.from_json(record) if record is not None else None, release)


class FetchCache:
    """Holds offsets in memory and texts on disk. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = path.open("ab", buffering=0)
        self._reader = path.open("rb")
        self._offsets: dict[str, int] = {}
        self._load()

    def _load(self) -> None:
        offset, ended = 0, True
        for line in self._reader:
            ended = line.endswith(b"\n")
            if ended:
                # A torn line that a later run ended is none, and what it was about is fetched again.
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._offsets[Fetched.from_line(line).accession] = offset
            offset += len(line)
        if not ended:
            self._writer.write(b"\n")

    def __contains__(self, accession: str) -> bool:
        return accession in self._offsets

    def __getitem__(self, accession: str) -> Fetched:
        self._reader.seek(self._offsets[accession])
        return Fetched.from_line(self._reader.readline())

    def add(self, items: Sequence[Fetched]) -> None:
        """Append, and return when it is on the disk."""
        lines = [item.to_line() for item in items]
        unwritten = memoryview(b"".join(lines))
        while unwritten:
            unwritten = unwritten[self._writer.write(unwritten) :]
        os.fsync(self._writer.fileno())
        # Where the append ended, not where this process thinks the end is: another run may share the file.
        offset = self._writer.tell() - sum(map(len, lines))
        for item, line in zip(items, lines, strict=True):
            self._offsets[item.accession] = offset
            offset += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._reader.close()
