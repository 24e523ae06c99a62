"""What a store owes, and the smaller thing a backend owes.

`Store` is what the pipeline and a notebook see. `Transport` is one dataset of one backend: it moves bytes
and makes a snapshot visible at once. Everything else (what to send, verify, merge, resume) is written once,
in `shared/stores/engine.py`, over that protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from shared.checkpoint import Checkpoint
from shared.errors import IntegrityError, MissingInput, ServiceUnavailable, TryAgain

MANIFEST_NAME = "MANIFEST.json"
Part = Literal["core", "embeddings"]


@dataclass(frozen=True, slots=True)
class Push:
    """What a push moved. An unchanged push moves nothing: zero objects, zero bytes, not published."""

    objects: int
    bytes: int  # of content that the store did not have
    published: bool
    version: str | None = field(default=None, compare=False)


@runtime_checkable
class Store(Protocol):
    """Checkpoints by (stage, fingerprint); content is compared by sha256, never by size or time."""

    url: str

    def pull(self, stage: str, fingerprint: str, into: Path) -> Checkpoint | None:
        """Bring a stage's outputs into a run folder, verified; None when the store has no such checkpoint.

        Files that already hold the right bytes are not transferred.

        Raises:
            IntegrityError: an object is missing or its bytes do not hash to its name.
            ServiceUnavailable: the remote did not answer; what was fetched is kept for the next try.
        """
        ...

    def push(self, checkpoint: Checkpoint, root: Path) -> Push:
        """Store a stage's outputs from a run folder; the checkpoint becomes visible last, or not at all.

        Raises:
            IntegrityError: a file under `root` is not what the checkpoint says.
            StoreConflict: another writer pushed the same stage meanwhile.
        """
        ...

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Every stored checkpoint, in a fixed order."""
        ...

    def describe(self) -> dict[str, Any]:
        """`{url, datasets: {core: {id, version}, ...}, private}` as it goes into a run's manifest."""
        ...


class Transient(ServiceUnavailable):
    """A failure that the next attempt may not meet: dropped connection, 429, 5xx, a truncated body.

    Args:
        retry_after: seconds the remote asked to wait, if it did.
    """

    def __init__(self, what: str, *, where: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(what, where=where, remedy="Run the same command again; what was transferred is kept")
        self.retry_after = retry_after


class DamagedBody(IntegrityError):
    """The client library's own checksum found other bytes than were stored."""


class Moved(TryAgain):
    """The dataset is not at the version that a commit was based on."""


class StoreConflict(TryAgain):
    """Two writers pushed the same stage at once; the first one's checkpoint stands."""


class MissingObject(MissingInput):
    """The remote has no such file in that version."""


@dataclass(frozen=True, slots=True)
class Traits:
    """How a backend differs from the others.

    `cas`: a commit fails when the dataset moved meanwhile (else the engine folds skipped versions in).
    `early_read`: uploaded bytes can be read back before the commit that names them.
    `keeps_bytes`: identical content cannot be replaced under its name (a damaged object is stored salted).
    `pack_below`: objects smaller than this many bytes travel together in one file; 0 never.
    `mountable`: a version's files can be attached to a notebook as a folder.
    `suffix`: ends an object's file name, for places that look at suffixes.
    """

    cas: bool = True
    early_read: bool = True
    keeps_bytes: bool = False
    pack_below: int = 0
    suffix: str = ""
    writable: bool = True
    removable: bool = True
    mountable: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """A file to upload; `path` is read, never changed. Hashes are lower-case hex."""

    name: str
    path: Path
    size: int
    sha256: str
    md5: str


Meter = Callable[[int], None]  # told of every block that travelled, in bytes


@runtime_checkable
class Transport(Protocol):
    """One dataset. Methods raise `Transient` for what is worth another try; the engine tries again."""

    dataset: str  # its id, as a person writes it
    traits: Traits

    def head(self) -> str | None:
        """The newest complete version; None when there is no dataset yet."""
        ...

    def manifest(self, version: str) -> bytes | None:
        """The manifest of a version; None when that version carries none."""
        ...

    def skipped(self, parent: str | None, version: str) -> list[str]:
        """Versions between the two that neither is built on; only without `cas`."""
        ...

    def read(self, version: str, name: str, start: int, length: int) -> Iterator[bytes]:
        """`length` bytes of a file from `start`, in blocks; fewer when the transfer was cut.

        Raises:
            MissingObject: no such file.
        """
        ...

    def upload(self, blob: Blob, meter: Meter, *, replace: bool) -> str:
        """Send a file so that a commit can name it; returns the commit's handle for it.

        Sending what is already there sends nothing, unless it is to be replaced; sending a file again whose
        transfer was cut sends the rest where the backend can.
        """
        ...

    def commit(self, base: str | None, manifest: bytes, uploads: Mapping[str, str], message: str) -> str | None:
        """Make a version with this manifest and these new files (name -> handle) visible, all at once.

        A dataset that does not exist yet is made, private.

        Returns:
            The version; None when it was accepted and becomes visible later.

        The caller has just seen the head at `base`; this is the moment that counts, where there is `cas`.

        Raises:
            Moved: the dataset is not at `base`.
            Transient: nothing is known about the outcome; the caller looks for the manifest's push id.
        """
        ...

    def busy(self) -> bool:
        """True while an accepted version is not visible yet.

        Raises:
            CannotWrite: the remote gave it up (quota).
        """
        ...

    def holds(self, version: str, name: str) -> tuple[int, str | None]:
        """Size of a stored file, and its md5 where the remote computed one from its own bytes.

        Raises:
            MissingObject: no such file.
        """
        ...

    def names(self) -> Iterator[tuple[str, float]]:
        """Every stored object file, with its age in seconds; for gc."""
        ...

    def remove(self, names: list[str], version: str) -> None:
        """Delete object files; only where `traits.removable`."""
        ...

    def private(self) -> bool | None:
        """Whether strangers are kept out; None where the backend does not know."""
        ...


def object_key(sha256: str, suffix: str = "") -> str:
    """Where an object lies in a dataset."""
    return f"objects/{sha256[:2]}/{sha256}{suffix}"
