"""Datasets where bytes are kept by key: a folder, a dict, an object store.

objects/<aa>/<sha256>      written once
manifests/<number>.json    created exclusively, which is the compare-and-swap; the highest number is the head

The newest `KEEP_VERSIONS` manifests stay; older ones are removed by the commit that makes them too many.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from shared.stores.base import Blob, Meter, MissingObject, Moved, Traits

KEEP_VERSIONS = 64
BLOCK_BYTES = 1 << 20


class KeyValue(Protocol):
    """What a folder, a dict and an object store have in common. A missing key raises `MissingObject`."""

    name: str

    def size(self, key: str) -> int:
        """Bytes of a value."""
        ...

    def read(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """A range of a value, in blocks."""
        ...

    def put(self, key: str, source: Path, meter: Meter) -> None:
        """Set a value from a file, atomically."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Set a value that must not exist.

        Raises:
            FileExistsError: it does.
        """
        ...

    def keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Keys under a prefix, with their age in seconds."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key; nothing happens when it is gone already."""
        ...

    def private(self) -> bool | None:
        """Whether strangers are kept out; None: not known."""
        ...


class KeyValueTransport:
    """A dataset under a prefix of a key-value place."""

    traits = Traits()

    def __init__(self, values: KeyValue, prefix: str = "") -> None:
        self.values, self.prefix = values, prefix
        self.dataset = f"{values.name}/{prefix}".rstrip("/")

    def _manifest_key(self, version: str) -> str:
        return f"{self.prefix}manifests/{int(version):08d}.json" if version.isdigit() else f"{self.prefix}manifests/-"

    def _numbers(self) -> list[int]:
        names = (
            key.rpartition("/")[2].removesuffix(".json") for key, _ in self.values.keys(f"{self.prefix}manifests/")
        )
        return sorted(int(name) for name in names if name.isdigit())

    def head(self) -> str | None:
        """See Transport."""
        numbers = self._numbers()
        return str(numbers[-1]) if numbers else None

    def manifest(self, version: str) -> bytes | None:
        """See Transport."""
        key = self._manifest_key(version)
        try:
            return b"".join(self.values.read(key, 0, self.values.size(key)))
        except MissingObject:
            return None

    def skipped(self, parent: str | None, version: str) -> list[str]:  # noqa: ARG002 - commits are exclusive
        """See Transport."""
        return []

    def read(self, version: str, name: str, start: int, length: int) -> Iterator[bytes]:  # noqa: ARG002 - write-once
        """See Transport."""
        return self.values.read(self.prefix + name, start, length)

    def upload(self, blob: Blob, meter: Meter, *, replace: bool) -> str:
        """See Transport; a value of the right size is taken for sent, and is read back before the commit."""
        key = self.prefix + blob.name
        present = None
        if not replace:
            with contextlib.suppress(MissingObject):
                present = self.values.size(key)
        if present != blob.size:
            self.values.put(key, blob.path, meter)
        return key

    def commit(self, base: str | None, manifest: bytes, uploads: Mapping[str, str], message: str) -> str | None:  # noqa: ARG002
        """See Transport."""
        version = str(int(base or 0) + 1)
        try:
            self.values.create(self._manifest_key(version), manifest)
        except FileExistsError as error:
            raise Moved(f"version {version} exists", where=self.dataset) from error
        for number in self._numbers()[:-KEEP_VERSIONS]:
            self.values.delete(self._manifest_key(str(number)))
        return version

    def busy(self) -> bool:
        """See Transport."""
        return False

    def holds(self, version: str, name: str) -> tuple[int, str | None]:  # noqa: ARG002 - write-once
        """See Transport; the place's own checksum is not trusted, the bytes are read."""
        return self.values.size(self.prefix + name), None

    def names(self) -> Iterator[tuple[str, float]]:
        """See Transport."""
        for key, age_s in self.values.keys(f"{self.prefix}objects/"):
            yield key.removeprefix(self.prefix), age_s

    def remove(self, names: list[str], version: str) -> None:  # noqa: ARG002 - objects have no version here
        """See Transport."""
        for name in names:
            self.values.delete(self.prefix + name)

    def private(self) -> bool | None:
        """See Transport."""
        return self.values.private()
