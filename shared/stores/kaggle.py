"""`kaggle://owner/slug` - Kaggle Datasets `<slug>-core-checkpoints` and `<slug>-embeddings`, private.

A Kaggle version is exactly the files that were sent with it; older versions stay readable. So a version here
holds the manifest and new files only, and the manifest says in which version every object is. There is no
compare-and-swap: two writers may publish side by side, and the engine folds such versions together.
"""

from __future__ import annotations

import re
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from shared.config.root import StoreConfig
from shared.digests import digest_of
from shared.errors import CannotWrite, ConfigError, GowhyError, NotPermitted, ServiceUnavailable
from shared.stores.base import MANIFEST_NAME, Blob, Meter, MissingObject, Moved, Part, Traits, Transient
from shared.stores.engine import ContentStore
from shared.stores.kaggle_client import Session, ask, connect, raise_for, signed_md5, translated
from shared.stores.kaggle_upload import Uploads
from shared.stores.retry import Patience
from shared.stores.snapshot import Snapshot
from shared.stores.transfer import hash_file

PARTS: dict[Part, str] = {"core": "core-checkpoints", "embeddings": "embeddings"}
MOUNTS = ("/kaggle/input/{slug}", "/kaggle/input/datasets/{owner}/{slug}")
BLOCK_BYTES = 1 << 20
SIGNED_S = 300.0  # how long a signed address is used again
MAX_MANIFEST_BYTES = 256 << 20


class KaggleTransport:
    """One Kaggle Dataset."""

    traits = Traits(cas=False, early_read=False, pack_below=1 << 20, suffix=".bin", removable=False, mountable=True)

    def __init__(self, owner: str, slug: str, cache: Path, patience: Patience) -> None:
        self.owner, self.slug, self.patience = owner, slug, patience
        self.dataset = f"{owner}/{slug}"
        self.cache = cache
        self.client = connect()
        self.api = self.client.datasets.dataset_api_client
        self.session = Session()  # without credentials: a signed address is its own permission
        self.uploads = Uploads(self.client, cache / "uploads" / digest_of("kaggle", owner)[:16], self.dataset)
        self._signed: dict[tuple[str, str], tuple[str, float]] = {}

    # -- what is there ---------------------------------------------------------------------------------------

    def _details(self) -> Any:
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest  # noqa: PLC0415

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self.owner, self.slug
        return ask(self.api.get_dataset, request, self.dataset)

    def _status(self) -> str | None:
        """`READY`, `FAILED`, ...; None when there is no such dataset."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest  # noqa: PLC0415

        request = ApiGetDatasetStatusRequest()
        request.owner_slug, request.dataset_slug = self.owner, self.slug
        try:
            return str(ask(self.api.get_dataset_status, request, self.dataset).status.name)
        except MissingObject:
            return None

    def head(self) -> str | None:
        """See Transport; a dataset whose first version is still processed is waited for."""
        for pause in self.patience.pauses():
            try:
                return str(self._details().current_version_number or "") or None
            except MissingObject:
                # The same answer for "no such dataset" and "not ready": only the second has a status.
                if self._status() in (None, "FAILED", "DELETED"):
                    return None
            time.sleep(pause)
        raise ServiceUnavailable("still processing its first version", where=self.dataset, remedy="Run again later")

    def busy(self) -> bool:
        """See Transport."""
        status = self._status()
        if status == "FAILED":
            raise CannotWrite(
                "Kaggle could not process the version",
                where=self.dataset,
                remedy="Most often the private quota is used up: look at the dataset's page, free space, run again",
            )
        return status not in (None, "READY", "DELETED")

    def manifest(self, version: str) -> bytes | None:
        """See Transport."""
        try:
            return b"".join(self.read(version, MANIFEST_NAME, 0, MAX_MANIFEST_BYTES))
        except MissingObject:
            return None

    def skipped(self, parent: str | None, version: str) -> list[str]:
        """See Transport; versions that are still processed are waited for."""
        between = range(int(parent or 0) + 1, int(version))
        if not between:
            return []
        for pause in self.patience.pauses():
            states = {v.version_number: str(v.status).lower() for v in self._details().versions or []}
            pending = [n for n in between if states.get(n, "ready") not in ("ready", "failed", "deleted")]
            if not pending:
                return [str(n) for n in between if states.get(n, "ready") == "ready"]
            time.sleep(pause)
        return [str(n) for n in between if states.get(n, "ready") == "ready"]

    def private(self) -> bool | None:
        """See Transport."""
        return bool(self._details().is_private)

    # -- down ------------------------------------------------------------------------------------------------

    def _address(self, version: str, name: str) -> str:
        """The signed address of a file, valid for some minutes."""
        url, since = self._signed.get((version, name), ("", 0.0))
        if time.monotonic() - since < SIGNED_S and url:
            return url
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest  # noqa: PLC0415

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = self.owner, self.slug
        request.dataset_version_number, request.file_name = int(version), name
        answer: Any = ask(self.api.download_dataset, request, f"{self.dataset}/{version}: {name}")
        url = answer.headers.get("Location", "")
        answer.close()
        if not url:
            raise ServiceUnavailable("no address for a download", where=f"{self.dataset}: {name}")
        self._signed[version, name] = (url, time.monotonic())
        return str(url)

    def _get(self, version: str, name: str, headers: dict[str, str]) -> requests.Response:
        where = f"{self.dataset}/{version}: {name}"
        for fresh in (False, True):
            address = self._address(version, name)
            with translated(where):
                answer = self.session.get(address, headers=headers, stream=True)
            if answer.status_code in (200, 206, 416):  # 416: the range begins where the file ends
                return answer
            self._signed.pop((version, name), None)
            answer.close()
            if fresh or answer.status_code not in (400, 401, 403, 404):  # else perhaps only the address is too old
                raise_for(answer.status_code, answer, where)
        raise AssertionError("the second round returns or raises")

    def read(self, version: str, name: str, start: int, length: int) -> Iterator[bytes]:
        """See Transport."""
        if self._is_wrapped(version, name):
            yield from self._unwrapped(version, name, start, length)
            return
        answer = self._get(version, name, {"Range": f"bytes={start}-{start + length - 1}"} if start else {})
        skip = start if answer.status_code == 200 else 0
        length = 0 if answer.status_code == 416 else length
        with answer, translated(f"{self.dataset}/{version}: {name}"):
            for whole in answer.iter_content(BLOCK_BYTES):
                block = whole[skip : skip + length]
                skip = max(0, skip - len(whole))
                length -= len(block)
                if block:
                    yield block
                if length <= 0:
                    return

    def holds(self, version: str, name: str) -> tuple[int, str | None]:
        """See Transport; the md5 is in the header of a one-byte request."""
        if self._is_wrapped(version, name):
            return sum(len(block) for block in self._unwrapped(version, name, 0, 1 << 62)), None
        with self._get(version, name, {"Range": "bytes=0-0"}) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = int(total) if total.isdigit() else int(answer.headers["Content-Length"])
            return size, signed_md5(answer)

    def _is_wrapped(self, version: str, name: str) -> bool:
        """Kaggle serves some large files as `<name>.zip`."""
        path = urlsplit(self._address(version, name)).path
        return path.endswith(".zip") and not name.endswith(".zip")

    def _unwrapped(self, version: str, name: str, start: int, length: int) -> Iterator[bytes]:
        where = f"{self.dataset}/{version}: {name}"
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.cache) as spool:
            with self._get(version, name, {}) as answer, translated(where):
                for block in answer.iter_content(BLOCK_BYTES):
                    spool.write(block)
            try:
                with zipfile.ZipFile(spool) as archive, archive.open(archive.infolist()[0]) as file:
                    file.seek(start)
                    while length > 0 and (block := file.read(min(BLOCK_BYTES, length))):
                        length -= len(block)
                        yield block
            except zipfile.BadZipFile as error:
                raise Transient(f"not a whole zip file: {error}", where=where) from error

    # -- up --------------------------------------------------------------------------------------------------

    def upload(self, blob: Blob, meter: Meter, *, replace: bool) -> str:
        """See Transport; the handle is `<sha256>:<token>`."""
        return f"{blob.sha256}:{self.uploads.send(blob, meter, again=replace)}"

    def commit(self, base: str | None, manifest: bytes, uploads: Mapping[str, str], message: str) -> str | None:
        """See Transport."""
        with tempfile.TemporaryDirectory(dir=_made(self.cache)) as folder:
            path = Path(folder) / MANIFEST_NAME
            path.write_bytes(manifest)
            sha256, md5, size = hash_file(path)
            token = self.uploads.send(Blob(MANIFEST_NAME, path, size, sha256, md5), lambda _count: None, again=False)
        tokens = {MANIFEST_NAME: token, **{name: handle.partition(":")[2] for name, handle in uploads.items()}}
        hashes = [sha256, *(handle.partition(":")[0] for handle in uploads.values())]
        try:
            answer = self._create(tokens) if base is None else self._create_version(tokens, message)
        except (Transient, NotPermitted):
            raise
        except MissingObject as error:
            # 403: not permitted, or the first version is still processed.
            if self._status() not in (None, "READY", "FAILED"):
                raise Transient(str(error), where=self.dataset) from error
            raise NotPermitted(f"{error}", where=self.dataset, remedy="Check the owner and the key's rights") from error
        except GowhyError:
            for one in hashes:  # perhaps Kaggle does not know an upload any more
                self.uploads.forget(one)
            raise
        if (answer.status or "").lower() != "ok" or answer.error:
            if base is None and self.head() is not None:
                raise Moved("the dataset exists by now", where=self.dataset)
            raise CannotWrite(
                answer.error or f"status {answer.status}", where=self.dataset, remedy="See docs/kaggle.md"
            )
        for one in hashes:
            self.uploads.forget(one)
        return None

    def _create(self, tokens: Mapping[str, str]) -> Any:
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest  # noqa: PLC0415

        request = ApiCreateDatasetRequest()
        request.owner_slug, request.slug, request.title = self.owner, self.slug, self.slug
        request.license_name, request.is_private = "other", True
        _fill(request, tokens)
        return ask(self.api.create_dataset, request, self.dataset)

    def _create_version(self, tokens: Mapping[str, str], message: str) -> Any:
        from kagglesdk.datasets.types.dataset_api_service import (  # noqa: PLC0415
            ApiCreateDatasetVersionRequest,
            ApiCreateDatasetVersionRequestBody,
        )

        request = ApiCreateDatasetVersionRequest()
        request.owner_slug, request.dataset_slug = self.owner, self.slug
        request.body = ApiCreateDatasetVersionRequestBody()
        request.body.version_notes = message
        # Old versions hold objects that the manifest names: they are never deleted with a new one.
        _fill(request.body, tokens)
        return ask(self.api.create_dataset_version, request, self.dataset)

    def names(self) -> Iterator[tuple[str, float]]:
        """See Transport; nothing can be removed from a version, so nothing is listed."""
        yield from ()

    def remove(self, names: list[str], version: str) -> None:  # noqa: ARG002 - refused
        """Refused."""
        raise NotPermitted("Kaggle keeps the files of every version", where=self.dataset)


def _fill(node: Any, tokens: Mapping[str, str]) -> None:
    """Put files and folders into a request, by their paths."""
    from kagglesdk.datasets.types.dataset_api_service import ApiDatasetNewFile, ApiUploadDirectoryInfo  # noqa: PLC0415

    folders: dict[str, dict[str, str]] = {}
    files = []
    for path, token in sorted(tokens.items()):
        head, _, rest = path.partition("/")
        if rest:
            folders.setdefault(head, {})[rest] = token
        else:
            file = ApiDatasetNewFile()
            file.token = token
            files.append(file)
    node.files = files
    directories = []
    for name, inside in folders.items():
        directory = ApiUploadDirectoryInfo()
        directory.name = name
        _fill(directory, inside)
        directories.append(directory)
    node.directories = directories


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_kaggle(url: str, cache: Path, config: StoreConfig) -> ContentStore:
    """`kaggle://owner/slug`, optionally `?mount=FOLDER` where a frozen snapshot is attached.

    Raises:
        ConfigError: not an owner and a slug that Kaggle would take.
    """
    parts = urlsplit(url)
    owner, slug = parts.netloc, parts.path.strip("/")
    longest = max(len(suffix) for suffix in PARTS.values()) + 1
    if not re.fullmatch(r"[\w-]+", owner) or not re.fullmatch(rf"[a-z0-9][a-z0-9-]{{2,{49 - longest}}}", slug):
        raise ConfigError(
            f"not a Kaggle store: {url!r}",
            where="store.url",
            remedy=f"kaggle://OWNER/SLUG, the slug of 3 to {50 - longest} lower-case letters, digits and hyphens",
        )
    patience = Patience(deadline_s=config.deadline_s)
    core = f"{slug}-{PARTS['core']}"
    named = parse_qs(parts.query).get("mount", [])
    candidates = named or [pattern.format(owner=owner, slug=core) for pattern in MOUNTS]
    mount = next((Snapshot(Path(p)) for p in candidates if named or (Path(p) / MANIFEST_NAME).is_file()), None)
    return ContentStore(
        f"kaggle://{owner}/{slug}",
        lambda part: KaggleTransport(owner, f"{slug}-{PARTS[part]}", cache, patience),
        cache,
        config,
        patience=patience,
        mount=mount,
    )
