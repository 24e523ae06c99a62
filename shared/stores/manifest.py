"""The store's manifest: every checkpoint, and where the bytes of every object are.

It is the last thing a push makes visible. A location's `version` is null for files that came with the
manifest itself, because no backend tells a version's name before it exists; reading pins it.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.checkpoint import Checkpoint, is_confined
from shared.digests import canonical_json
from shared.errors import IntegrityError
from shared.stores.base import Part

STORE_MANIFEST_VERSION = "1.0"
MAX_BYTES = 256 << 20
SHA256 = r"^[0-9a-f]{64}$"


class Document(BaseModel):
    """Unknown fields of a newer minor version are kept."""

    model_config = ConfigDict(extra="allow")


class Location(Document):
    """Where an object's bytes are: `size` bytes from `offset` of the file `name` in a version of a dataset."""

    size: int = Field(ge=0)
    part: Part = "core"
    version: str | None = None
    name: str
    offset: int = Field(0, ge=0)
    md5: str | None = Field(None, description="of the whole file, for remotes that tell it without a transfer")


class Entry(Document):
    """A checkpoint, and the number of the push that brought it."""

    seq: int
    checkpoint: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """(stage, fingerprint)."""
        return str(self.checkpoint.get("stage")), str(self.checkpoint.get("fingerprint"))


class StoreManifest(Document):
    """One version of one dataset. The embeddings dataset's manifests have objects and no entries."""

    store_manifest_version: str = Field(STORE_MANIFEST_VERSION, pattern=r"^1\.\d+$")
    push_id: str = ""
    seq: int = 0
    parent: str | None = None
    created_at: str = ""  # for people; nothing is ordered by time
    message: str = ""
    kind: str = Field("", description="push, repair, gc or freeze")
    entries: list[Entry] = []
    objects: dict[str, Location] = {}  # by sha256
    parts: dict[str, str] = Field({}, description="the version of each further dataset that this one was made with")
    files: dict[str, str] = Field({}, description="a frozen snapshot's plain files: path -> sha256")

    def find(self, stage: str, fingerprint: str) -> Entry | None:
        """The entry of one checkpoint."""
        return next((entry for entry in self.entries if entry.key == (stage, fingerprint)), None)

    def checkpoints(self, where: str) -> Iterator[Checkpoint]:
        """Every checkpoint, by stage and fingerprint."""
        for entry in sorted(self.entries, key=lambda item: item.key):
            yield Checkpoint.from_json(entry.checkpoint, where=where)

    def current(self, where: str) -> dict[str, Checkpoint]:
        """The newest checkpoint of each stage, by stage."""
        newest: dict[str, Entry] = {}
        for entry in sorted(self.entries, key=lambda item: (item.seq, item.key)):
            newest[entry.key[0]] = entry
        return {stage: Checkpoint.from_json(newest[stage].checkpoint, where=where) for stage in sorted(newest)}

    def put(self, checkpoint: Checkpoint) -> None:
        """Set the entry of a checkpoint."""
        key = (checkpoint.stage, checkpoint.fingerprint)
        self.entries = [entry for entry in self.entries if entry.key != key]
        self.entries.append(Entry(seq=self.seq, checkpoint=checkpoint.to_json()))

    def fold(self, other: StoreManifest, base: StoreManifest) -> None:
        """Take in a version that was published beside this one, on the same `base`; its changes came first."""
        changed = {entry.key: entry for entry in other.entries if base.find(*entry.key) != entry}
        self.entries = [entry for entry in self.entries if entry.key not in changed] + list(changed.values())
        self.objects = {**other.objects, **self.objects}

    def successor(self, parent: str | None, kind: str, message: str) -> StoreManifest:
        """An editable copy that names its parent, under a new push id."""
        copy = self.model_copy(deep=True)
        copy.push_id, copy.parent, copy.seq = uuid.uuid4().hex, parent, self.seq + 1
        copy.created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        copy.kind, copy.message = kind, message
        copy.files = {}
        return copy

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def parse_manifest(data: bytes, *, version: str | None, part: Part, where: str) -> StoreManifest:
    """Parse what a dataset's version carries, and pin the locations that mean "this version".

    Raises:
        IntegrityError: too large, not a store manifest, or a path that leaves its folder.
    """
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"{len(data)} bytes, at most {MAX_BYTES}", where=where)
    try:
        manifest = StoreManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise IntegrityError(
            f"not a store manifest: {problem}", where=where, remedy="Pin an earlier version, or push again"
        ) from error
    for path in (*manifest.files, *(location.name for location in manifest.objects.values())):
        if not is_confined(path):
            raise IntegrityError(f"{path!r} leaves the dataset", where=where)
    for location in manifest.objects.values():
        if location.version is None and location.part == part:
            location.version = version
    return manifest


def push_id_of(data: bytes | None) -> str | None:
    """The push id in a manifest's bytes; None when they are something else."""
    try:
        return StoreManifest.model_validate_json(data or b"").push_id
    except ValidationError:
        return None
