"""`memory://` - for tests and throw-away runs; nothing outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from shared.config.root import StoreConfig
from shared.stores.base import Meter, MissingObject
from shared.stores.engine import ContentStore
from shared.stores.keyvalue import BLOCK_BYTES, KeyValueTransport
from shared.stores.retry import Patience


class DictValues:
    """Bytes in a dict."""

    name = "memory:"

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _get(self, key: str) -> bytes:
        try:
            return self.data[key]
        except KeyError:
            raise MissingObject(f"no {key}", where=self.name) from None

    def size(self, key: str) -> int:
        """See KeyValue."""
        return len(self._get(key))

    def read(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """See KeyValue."""
        view = self._get(key)[start : start + length]
        for at in range(0, len(view), BLOCK_BYTES):
            yield view[at : at + BLOCK_BYTES]

    def put(self, key: str, source: Path, meter: Meter) -> None:
        """See KeyValue."""
        self.data[key] = source.read_bytes()
        meter(len(self.data[key]))

    def create(self, key: str, data: bytes) -> None:
        """See KeyValue."""
        with self._lock:
            if key in self.data:
                raise FileExistsError(key)
            self.data[key] = data

    def keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        """See KeyValue; everything is as old as can be."""
        yield from ((key, float("inf")) for key in sorted(self.data) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """See KeyValue."""
        self.data.pop(key, None)

    def private(self) -> bool | None:
        """See KeyValue."""
        return True


class MemoryStore(ContentStore):
    """Bytes in a dict, in `data`."""

    def __init__(self, config: StoreConfig | None = None, cache: Path | None = None) -> None:
        values = DictValues()
        self.data = values.data
        super().__init__(
            "memory://",
            lambda part: KeyValueTransport(values, "" if part == "core" else f"{part}/"),
            cache,
            config,
            patience=Patience(attempts=4, wait_s=0.01, settle_s=0.0, poll=(0.01, 1.0)),
        )

    @classmethod
    def open(cls, url: str, cache: Path, config: StoreConfig) -> MemoryStore:  # noqa: ARG003 - the registry's signature
        """A new, empty store."""
        return cls(config, cache)
