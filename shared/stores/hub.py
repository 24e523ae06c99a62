"""`hf://owner/slug` - private model repositories `<slug>-core-checkpoints` and `<slug>-embeddings` on the Hugging Face Hub.

A commit names its parent: compare-and-swap. Content goes to large-file storage, which knows objects by sha256
and takes none twice; so a damaged object is mended by storing it under another hash, behind a salt.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.config.root import StoreConfig
from shared.errors import ConfigError, MissingInput, NotPermitted, ServiceUnavailable
from shared.stores.base import MANIFEST_NAME, Blob, Meter, MissingObject, Moved, Part, Traits, Transient
from shared.stores.engine import ContentStore
from shared.stores.retry import Patience

PARTS: dict[Part, str] = {"core": "core-checkpoints", "embeddings": "embeddings"}
BUSY = frozenset({408, 429, 500, 502, 503, 504})
BLOCK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 256 << 20
HINT = "Set HF_TOKEN to a token that may write; see docs/stores.md"


class HubTransport:
    """One repository; the branch is `main`."""

    traits = Traits(early_read=False, keeps_bytes=True, suffix=".bin")

    def __init__(self, repository: str, endpoint: str | None = None) -> None:
        try:
            import huggingface_hub  # noqa: PLC0415 - only with the Hub
        except ImportError as error:
            raise MissingInput(f"{error}", where="hf://", remedy="Install huggingface_hub (make setup)") from error
        self.hub: Any = huggingface_hub
        self.api = huggingface_hub.HfApi(endpoint=endpoint)  # None: HF_ENDPOINT, else the public Hub
        self.dataset = repository
        self._additions: dict[str, Any] = {}

    @contextlib.contextmanager
    def _translated(self, where: str = "") -> Iterator[None]:
        """Turn what the client raises into what the engine knows."""
        errors = self.hub.errors
        where = f"{self.dataset}: {where}" if where else self.dataset
        try:
            try:
                yield
            except RuntimeError as error:  # an upload's failure comes wrapped
                raise error.__cause__ or error from None
        except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
            raise MissingObject(str(error).splitlines()[0], where=where) from error
        except errors.HfHubHTTPError as error:
            self._raise_for(error.response.status_code, error.response.headers, where, str(error), error)
        except (errors.HTTPError, ConnectionError, TimeoutError) as error:  # of the HTTP library below the client
            raise Transient(f"{type(error).__name__}: {error}", where=where) from error

    @staticmethod
    def _raise_for(code: int, headers: Any, where: str, message: str, cause: Exception | None = None) -> None:
        text = f"HTTP {code} {message.strip().splitlines()[0] if message.strip() else ''}".strip()
        if code in BUSY:
            value = headers.get("Retry-After", "")
            raise Transient(text, where=where, retry_after=float(value) if value.isdigit() else None) from cause
        if code == 412:
            raise Moved(text, where=where) from cause
        if code in (401, 403):
            raise NotPermitted(text, where=where, remedy=HINT) from cause
        if code == 404:
            raise MissingObject(text, where=where) from cause
        raise ServiceUnavailable(text, where=where) from cause

    def head(self) -> str | None:
        """See Transport."""
        try:
            with self._translated():
                return str(self.api.repo_info(self.dataset, revision="main", timeout=60).sha)
        except MissingObject:
            return None

    def manifest(self, version: str) -> bytes | None:
        """See Transport."""
        try:
            return b"".join(self.read(version, MANIFEST_NAME, 0, MAX_MANIFEST_BYTES))
        except MissingObject:
            return None

    def skipped(self, parent: str | None, version: str) -> list[str]:  # noqa: ARG002 - a commit names its parent
        """See Transport."""
        return []

    def read(self, version: str, name: str, start: int, length: int) -> Iterator[bytes]:
        """See Transport."""
        utils = self.hub.utils
        url = self.hub.hf_hub_url(self.dataset, name, revision=version, endpoint=self.api.endpoint)
        headers = {**utils.build_hf_headers(), **({"Range": f"bytes={start}-{start + length - 1}"} if start else {})}
        with (
            self._translated(name),
            utils.get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer,
        ):
            if answer.status_code == 416:  # the range begins where the file ends
                return
            if answer.status_code not in (200, 206):
                self._raise_for(answer.status_code, answer.headers, f"{self.dataset}: {name}", "")
            skip = start if answer.status_code == 200 else 0
            for whole in answer.iter_bytes(BLOCK_BYTES):
                block = whole[skip : skip + length]
                skip = max(0, skip - len(whole))
                length -= len(block)
                if block:
                    yield block
                if length <= 0:
                    return

    def upload(self, blob: Blob, meter: Meter, *, replace: bool) -> str:  # noqa: ARG002 - content is replaced salted
        """See Transport; the storage takes a content it knows as sent."""
        if self.head() is None:
            with self._translated():
                self.api.create_repo(self.dataset, private=True, exist_ok=True)
        addition = self.hub.CommitOperationAdd(path_in_repo=blob.name, path_or_fileobj=blob.path)
        with self._translated(blob.name):
            self.api.preupload_lfs_files(self.dataset, [addition], free_memory=False)
        self._additions[blob.name] = addition
        meter(blob.size)
        return blob.name

    def commit(self, base: str | None, manifest: bytes, uploads: Mapping[str, str], message: str) -> str | None:
        """See Transport."""
        if base is None:
            with self._translated():
                self.api.create_repo(self.dataset, private=True, exist_ok=True)
            raise Moved("a new repository has a first commit", where=self.dataset)
        operations = [self._additions[name] for name in uploads]
        operations.append(self.hub.CommitOperationAdd(path_in_repo=MANIFEST_NAME, path_or_fileobj=manifest))
        with self._translated():
            done = self.api.create_commit(
                self.dataset, operations, commit_message=message, parent_commit=base, num_threads=1
            )
        for name in uploads:
            self._additions.pop(name, None)
        return str(done.oid)

    def busy(self) -> bool:
        """See Transport."""
        return False

    def holds(self, version: str, name: str) -> tuple[int, str | None]:
        """See Transport; the Hub repeats the hash it was told, so the bytes are read."""
        with self._translated(name):
            found = self.api.get_paths_info(self.dataset, [name], revision=version)
        if not found:
            raise MissingObject(f"no {name}", where=self.dataset)
        return int(getattr(found[0], "size", 0)), None

    def names(self) -> Iterator[tuple[str, float]]:
        """See Transport; a commit adds its files at once, so none is of a push that is under way."""
        try:
            with self._translated():
                tree = list(self.api.list_repo_tree(self.dataset, recursive=True))
        except MissingObject:
            return
        for item in tree:
            if hasattr(item, "size") and item.path.startswith(("objects/", "mended/")):
                yield item.path, float("inf")

    def remove(self, names: list[str], version: str) -> None:
        """See Transport; pinned older commits keep the files."""
        operations = [self.hub.CommitOperationDelete(path_in_repo=name) for name in names]
        with self._translated():
            self.api.create_commit(
                self.dataset, operations, commit_message="gc: remove what nothing names", parent_commit=version
            )

    def private(self) -> bool | None:
        """See Transport."""
        with self._translated():
            return bool(self.api.repo_info(self.dataset, timeout=60).private)


def open_hub(url: str, cache: Path, config: StoreConfig) -> ContentStore:
    """See `STORES`.

    Raises:
        ConfigError: not an owner and a name that the Hub would take.
    """
    parts = urlsplit(url)
    owner, slug = parts.netloc, parts.path.strip("/")
    if not re.fullmatch(r"[\w.-]+", owner) or not re.fullmatch(r"[\w.-]{1,78}", slug):
        raise ConfigError(f"not a Hub store: {url!r}", where="store.url", remedy="hf://OWNER/NAME")
    return ContentStore(
        f"hf://{owner}/{slug}",
        lambda part: HubTransport(f"{owner}/{slug}-{PARTS[part]}"),
        cache,
        config,
        patience=Patience(deadline_s=config.deadline_s),
    )
