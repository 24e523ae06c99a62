"""What a store owes, and the content-addressed layout that simple backends share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from shared.atomic import atomic_path
from shared.checkpoint import Checkpoint
from shared.digests import canonical_json, sha256_file
from shared.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Push:
    """What a push moved. An unchanged push moves nothing: zero objects, zero bytes, not published."""

    objects: int
    bytes: int
    published: bool


@runtime_checkable
class Store(Protocol):
    """Checkpoints by (stage, fingerprint); content is compared by sha256, never by size or time."""

    url: str

    def pull(self, stage: str, fingerprint: str, into: Path) -> Checkpoint | None:
        """Bring a stage's outputs into a run folder, verified; None when the store has no such checkpoint.

        Files that already hold the right bytes are not transferred.

        Raises:
            IntegrityError: an object is missing or its bytes do not hash to its name.
        """
        ...

    def push(self, checkpoint: Checkpoint, root: Path) -> Push:
        """Store a stage's outputs from a run folder; the checkpoint becomes visible last.

        Raises:
            IntegrityError: a file under `root` is not what the checkpoint says.
        """
        ...

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Every stored checkpoint, in a fixed order."""
        ...


class ObjectStore(ABC):
    """`objects/<aa>/<sha256>` written once, `checkpoints/<stage>/<fingerprint>.json` written last.

    A backend supplies bytes by key; the order of writes here is what makes a push atomic.
    """

    url: str

    @abstractmethod
    def has(self, key: str) -> bool:
        """True when the key exists."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """A small value, or None."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Replace a small value atomically."""

    @abstractmethod
    def upload(self, key: str, source: Path) -> None:
        """Store a file under a key, atomically."""

    @abstractmethod
    def download(self, key: str, target: Path) -> bool:
        """Copy a key to a path; False when there is no such key."""

    @abstractmethod
    def keys(self, prefix: str) -> Iterator[str]:
        """Keys under a prefix, sorted."""

    def pull(self, stage: str, fingerprint: str, into: Path) -> Checkpoint | None:
        """See `Store.pull`."""
        data = self.read(checkpoint_key(stage, fingerprint))
        if data is None:
            return None
        checkpoint = parse_checkpoint(data, where=f"{self.url}: {checkpoint_key(stage, fingerprint)}")
        if (checkpoint.stage, checkpoint.fingerprint) != (stage, fingerprint):
            raise IntegrityError(f"checkpoint of {checkpoint.stage} stands under {stage}", where=self.url)
        for output in checkpoint.outputs:
            if output.matches(into):
                continue
            with atomic_path(into / output.path) as temporary:
                if not self.download(object_key(output.sha256), temporary):
                    raise IntegrityError(
                        f"object {output.sha256} of {output.path} is missing",
                        where=self.url,
                        remedy="Push the stage again from a run folder that has it",
                    )
                if (found := sha256_file(temporary)) != output.sha256:
                    raise IntegrityError(
                        f"{output.path}: expected sha256 {output.sha256}, got {found}",
                        where=self.url,
                        remedy="Delete the object in the store and push the stage again",
                    )
        return checkpoint

    def push(self, checkpoint: Checkpoint, root: Path) -> Push:
        """See `Store.push`."""
        sent = size = 0
        for output in checkpoint.outputs:
            if not output.matches(root):
                raise IntegrityError(
                    f"{output.path} changed since its checkpoint was written",
                    where=str(root),
                    remedy="Run the stage again",
                )
            key = object_key(output.sha256)
            if not self.has(key):
                self.upload(key, root / output.path)
                sent, size = sent + 1, size + output.size
        key = checkpoint_key(checkpoint.stage, checkpoint.fingerprint)
        stored = self.read(key)
        if stored is not None and parse_checkpoint(stored, where=self.url).outputs == checkpoint.outputs:
            return Push(sent, size, published=False)
        self.write(key, canonical_json(checkpoint.to_json()))
        return Push(sent, size, published=True)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """See `Store.checkpoints`."""
        for key in self.keys("checkpoints/"):
            data = self.read(key)
            if data is not None:
                yield parse_checkpoint(data, where=f"{self.url}: {key}")


def object_key(sha256: str) -> str:
    """Where an object lies in the shared layout."""
    return f"objects/{sha256[:2]}/{sha256}"


def checkpoint_key(stage: str, fingerprint: str) -> str:
    """Where a checkpoint lies in the shared layout."""
    return f"checkpoints/{stage}/{fingerprint}.json"


def parse_checkpoint(data: bytes, *, where: str) -> Checkpoint:
    """Parse stored bytes.

    Raises:
        IntegrityError: they are not a checkpoint.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"not JSON: {error}", where=where) from error
    return Checkpoint.from_json(value, where=where)
