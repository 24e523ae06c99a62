"""`s3://`, `gs://` and every other place that fsspec knows; credentials come from the environment.

S3 and GCS create a key exclusively, which makes a commit a compare-and-swap. For other places fsspec checks
first and writes then: what is written is read back, so that a writer who lost a race sees it.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.config.root import StoreConfig
from shared.errors import GowhyError, MissingInput, NotPermitted
from shared.stores.base import DamagedBody, Meter, MissingObject, Transient
from shared.stores.engine import ContentStore
from shared.stores.keyvalue import KeyValueTransport
from shared.stores.transfer import Stopped

READ_BYTES = 16 << 20  # per request: few enough requests, little enough lost when one is cut


class ObjectValues:
    """Keys of a bucket or any fsspec file system."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 - only when such a store is opened

            self.fs, self.root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            raise MissingInput(f"{error}", where=url, remedy="Install the package that fsspec asks for") from error
        self.root = self.root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn what fsspec and the client library below it raise into what the engine knows."""
        try:
            yield
        except FileNotFoundError as error:
            raise MissingObject(f"no {key}", where=self.name) from error
        except PermissionError as error:
            raise NotPermitted(
                f"refused: {error}", where=self.name, remedy="Check the credentials in the environment"
            ) from error
        except (FileExistsError, GowhyError, Stopped):
            raise
        except Exception as error:
            if "checksum" in type(error).__name__.lower():
                raise DamagedBody(str(error), where=f"{self.name}/{key}") from error
            # Each backend raises errors of its own libraries; all that is left is worth another try.
            raise Transient(f"{type(error).__name__}: {error}", where=f"{self.name}/{key}") from error

    def size(self, key: str) -> int:
        """See KeyValue."""
        with self._translated(key):
            return int(self.fs.info(self._path(key))["size"])

    def read(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """See KeyValue."""
        # A range that begins at the end is an error to some places; after a cut transfer of a short file it happens.
        end = start + length if start == 0 else min(start + length, self.size(key))
        while start < end:
            with self._translated(key):
                block = bytes(self.fs.cat_file(self._path(key), start=start, end=min(end, start + READ_BYTES)))
            if not block:
                return
            start += len(block)
            yield block

    def put(self, key: str, source: Path, meter: Meter) -> None:
        """See KeyValue; object stores show an object when it is whole."""
        from fsspec.callbacks import Callback  # noqa: PLC0415 - as above

        sent = Callback(hooks={"meter": _Steps(meter)})
        with self._translated(key):
            if not _is_bucket(self.fs):
                self.fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(source), self._path(key), callback=sent)

    def create(self, key: str, data: bytes) -> None:
        """See KeyValue."""
        with self._translated(key):
            if not _is_bucket(self.fs):
                self.fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(self._path(key), data, mode="create")
        if b"".join(self.read(key, 0, len(data))) != data:
            raise FileExistsError(key)

    def keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        """See KeyValue."""
        now = datetime.datetime.now(datetime.UTC)
        found: dict[str, Any] = {}
        with contextlib.suppress(MissingObject), self._translated(prefix):
            found = self.fs.find(self._path(prefix), detail=True)
        for path, info in sorted(found.items()):
            yield path.removeprefix(f"{self.root}/"), _age_s(info, now)

    def delete(self, key: str) -> None:
        """See KeyValue."""
        with contextlib.suppress(MissingObject), self._translated(key):
            self.fs.rm_file(self._path(key))

    def private(self) -> bool | None:
        """See KeyValue; a bucket's policy is its owner's."""
        return None


class _Steps:
    """A hook of fsspec's callback, which tells running totals: hands on the differences."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.seen = meter, 0

    def __call__(self, size: int | None, value: int, **_more: Any) -> None:  # noqa: ARG002 - fsspec tells both
        """The total so far is `value`."""
        self.meter(value - self.seen)
        self.seen = value


def _is_bucket(fs: Any) -> bool:
    """Object stores have no folders to make."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return not protocols.isdisjoint({"s3", "s3a", "gs", "gcs"})


def _age_s(info: dict[str, Any], now: datetime.datetime) -> float:
    """Seconds since a file was written; 0 where the place does not say, so that gc leaves it alone."""
    value = info.get("LastModified") or info.get("updated") or info.get("mtime") or info.get("created")
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, int | float):
        value = datetime.datetime.fromtimestamp(value, datetime.UTC)
    if not isinstance(value, datetime.datetime):
        return 0.0
    return (now - (value if value.tzinfo else value.replace(tzinfo=datetime.UTC))).total_seconds()


def open_object_store(url: str, cache: Path, config: StoreConfig) -> ContentStore:
    """See `STORES`."""
    scheme = urlsplit(url).scheme
    if scheme in ("file", "local"):
        from shared.stores.local import LocalStore  # noqa: PLC0415 - one file system, one implementation

        return LocalStore.open(url, cache, config)

    @functools.cache
    def values() -> ObjectValues:
        return ObjectValues(url)

    return ContentStore(
        url, lambda part: KeyValueTransport(values(), "" if part == "core" else f"{part}/"), cache, config
    )
