"""`mount:///path` - a frozen snapshot as a read-only store, without network."""

# ruff: noqa: ARG002 - a read-only dataset ignores most of what it is told

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.config.root import StoreConfig
from shared.errors import CannotWrite
from shared.stores.base import MANIFEST_NAME, Blob, Meter, MissingObject, Traits
from shared.stores.engine import ContentStore
from shared.stores.snapshot import Snapshot


class MountTransport:
    """A snapshot as a read-only dataset."""

    traits = Traits(writable=False, removable=False)

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot, self.dataset = snapshot, str(snapshot.root)

    def head(self) -> str | None:
        """See Transport."""
        return self.snapshot.version

    def manifest(self, version: str) -> bytes | None:
        """See Transport."""
        return (self.snapshot.root / MANIFEST_NAME).read_bytes() if version == self.snapshot.version else None

    def skipped(self, parent: str | None, version: str) -> list[str]:
        """See Transport."""
        return []

    def read(self, version: str, name: str, start: int, length: int) -> Iterator[bytes]:
        """See Transport; the plain files are read through `Snapshot.copy`."""
        raise MissingObject(f"{name} of version {version} is not in the mount", where=self.dataset)

    def holds(self, version: str, name: str) -> tuple[int, str | None]:
        """See Transport."""
        raise MissingObject(f"{name} of version {version} is not in the mount", where=self.dataset)

    def upload(self, blob: Blob, meter: Meter, *, replace: bool) -> str:
        """Refused."""
        raise CannotWrite("a mount is read-only", where=self.dataset)

    def commit(self, base: str | None, manifest: bytes, uploads: Mapping[str, str], message: str) -> str | None:
        """Refused."""
        raise CannotWrite("a mount is read-only", where=self.dataset)

    def busy(self) -> bool:
        """See Transport."""
        return False

    def names(self) -> Iterator[tuple[str, float]]:
        """See Transport."""
        yield from ()

    def remove(self, names: list[str], version: str) -> None:
        """Refused."""
        raise CannotWrite("a mount is read-only", where=self.dataset)

    def private(self) -> bool | None:
        """See Transport."""
        return None


def open_mount(url: str, cache: Path, config: StoreConfig) -> ContentStore:
    """See `STORES`.

    Raises:
        MissingInput: there is no snapshot at the path.
    """
    parts = urlsplit(url)
    snapshot = Snapshot(Path(unquote(parts.netloc + parts.path)))
    return ContentStore(url, lambda _part: MountTransport(snapshot), cache, config, mount=snapshot)
