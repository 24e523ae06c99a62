"""`local://` - a folder on a local or mounted disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.atomic import atomic_path, write_bytes
from shared.stores.base import ObjectStore


class LocalStore(ObjectStore):
    """Objects are copied in and out, never linked: a damaged run folder cannot damage the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"local://{root}"

    @classmethod
    def open(cls, url: str, cache: Path) -> LocalStore:
        """`local:///abs/path` or `local://relative/path`; without a path, `<out>/store` beside the cache."""
        parts = urlsplit(url)
        path = unquote(parts.netloc + parts.path)
        return cls(Path(path) if path else cache.parent / "store")

    def has(self, key: str) -> bool:
        """See ObjectStore."""
        return (self.root / key).is_file()

    def read(self, key: str) -> bytes | None:
        """See ObjectStore."""
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """See ObjectStore."""
        write_bytes(self.root / key, data)

    def upload(self, key: str, source: Path) -> None:
        """See ObjectStore."""
        with atomic_path(self.root / key) as temporary:
            shutil.copyfile(source, temporary)

    def download(self, key: str, target: Path) -> bool:
        """See ObjectStore."""
        try:
            shutil.copyfile(self.root / key, target)
        except FileNotFoundError:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        folder = self.root / prefix
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(self.root).as_posix()
