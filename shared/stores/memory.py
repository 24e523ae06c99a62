"""`memory://` - for tests and throw-away runs; nothing outlives the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shared.stores.base import ObjectStore


class MemoryStore(ObjectStore):
    """Bytes in a dict."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.url = "memory://"

    @classmethod
    def open(cls, url: str, cache: Path) -> MemoryStore:  # noqa: ARG003 - the registry's signature
        """A new, empty store."""
        return cls()

    def has(self, key: str) -> bool:
        """See ObjectStore."""
        return key in self.data

    def read(self, key: str) -> bytes | None:
        """See ObjectStore."""
        return self.data.get(key)

    def write(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        self.data[key] = data

    def upload(self, key: str, source: Path) -> None:
        """See ObjectStore."""
        self.data[key] = source.read_bytes()

    def download(self, key: str, target: Path) -> bool:
        """See ObjectStore."""
        if key not in self.data:
            return False
        target.write_bytes(self.data[key])
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        yield from sorted(key for key in self.data if key.startswith(prefix))
