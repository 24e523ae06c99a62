"""`local://` - a folder on a local or mounted disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.atomic import fsync_path, publish
from shared.config.root import StoreConfig
from shared.errors import from_os_error
from shared.stores.base import Meter, MissingObject
from shared.stores.engine import ContentStore
from shared.stores.keyvalue import BLOCK_BYTES, KeyValueTransport
from shared.stores.retry import Patience


class FolderValues:
    """Values are files; they are copied in and out, never linked: a damaged run cannot damage the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def size(self, key: str) -> int:
        """See KeyValue."""
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObject(f"no {key}", where=self.name) from error

    def read(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """See KeyValue."""
        try:
            file = (self.root / key).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise MissingObject(f"no {key}", where=self.name) from error
        with file:
            file.seek(start)
            while length > 0 and (block := file.read(min(BLOCK_BYTES, length))):
                length -= len(block)
                yield block

    def put(self, key: str, source: Path, meter: Meter) -> None:
        """See KeyValue."""
        with self._temporary(key) as temporary:
            shutil.copyfile(source, temporary)
            publish(temporary, self.root / key)
        meter(source.stat().st_size)

    def create(self, key: str, data: bytes) -> None:
        """See KeyValue; `link` refuses a name that exists, and shows the whole file or none."""
        with self._temporary(key) as temporary:
            temporary.write_bytes(data)
            fsync_path(temporary)
            os.link(temporary, self.root / key)
            fsync_path((self.root / key).parent)

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        final = self.root / key
        temporary = final.with_name(f".{uuid.uuid4().hex}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
        except FileExistsError:
            raise
        except OSError as error:
            raise from_os_error(error, str(final)) from error
        finally:
            temporary.unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        """See KeyValue."""
        now = time.time()
        for path in sorted((self.root / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.name.startswith("."):
                    yield path.relative_to(self.root).as_posix(), now - path.stat().st_mtime

    def delete(self, key: str) -> None:
        """See KeyValue."""
        (self.root / key).unlink(missing_ok=True)

    def private(self) -> bool | None:
        """See KeyValue; the file system's permissions rule."""
        return True


class LocalStore(ContentStore):
    """`local:///abs/path` or `local://relative/path`; without a path, `<out>/store` beside the cache."""

    def __init__(self, root: Path, config: StoreConfig | None = None, cache: Path | None = None) -> None:
        self.root = root
        values = FolderValues(root)
        super().__init__(
            f"local://{root}",
            lambda part: KeyValueTransport(values, "" if part == "core" else f"{part}/"),
            cache,
            config,
            patience=Patience(attempts=4, wait_s=0.01, settle_s=0.0, poll=(0.01, 1.0)),  # a disk answers or fails
        )

    @classmethod
    def open(cls, url: str, cache: Path, config: StoreConfig) -> LocalStore:
        """See `STORES`."""
        parts = urlsplit(url)
        path = unquote(parts.netloc + parts.path)
        return cls(Path(path) if path else cache.parent / "store", config, cache)
