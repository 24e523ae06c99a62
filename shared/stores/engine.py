"""The one engine behind every store: content-addressed, manifest last, verified both ways.

A push: hash the files, send what no version has, verify what was sent, then make one new manifest visible.
Until that moment nobody sees anything; after it, everything. A kill at any point leaves either the old state
or the new one, and what was already sent is found again.

Two writers: with compare-and-swap the second commit is refused, re-based on the first and repeated. Without
it (Kaggle) a version may be built beside another one; whoever reads the dataset folds such versions together.
Either way different stages merge, and the same stage raises `StoreConflict`.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.atomic import atomic_path, fsync_path
from shared.checkpoint import Checkpoint, Output
from shared.config.root import StoreConfig
from shared.errors import IntegrityError, MissingInput, NotPermitted
from shared.stores.base import Meter, MissingObject, Part, Push, Transient, Transport
from shared.stores.commit import Change, publish, settle_pending
from shared.stores.manifest import Location, StoreManifest, parse_manifest
from shared.stores.packing import Source
from shared.stores.retry import Patience
from shared.stores.snapshot import Snapshot
from shared.stores.transfer import Wanted, fetch, run_batch

EMBEDDING_STAGES = ("stage_05_embeddings_t5", "stage_06_embeddings_esm2")
STATES_KEPT = 16


@dataclass(frozen=True, slots=True)
class State:
    """One version of a dataset as it counts: its manifest, with skipped versions folded in."""

    version: str | None
    manifest: StoreManifest


class ContentStore:
    """A `Store` over one or two datasets.

    Args:
        url: what the store is called.
        connect: gives the transport of a part; called at most once per part.
        cache: a local folder for cut transfers; None uses a hidden one beside what is pulled.
        config: split, parallelism.
        patience: how long to go on when the remote does not answer.
        mount: a frozen snapshot on a local path; files are taken from it before the network is used.
    """

    def __init__(
        self,
        url: str,
        connect: Callable[[Part], Transport],
        cache: Path | None = None,
        config: StoreConfig | None = None,
        *,
        patience: Patience | None = None,
        mount: Snapshot | None = None,
    ) -> None:
        self.url, self._connect, self.cache, self.mount = url, connect, cache, mount
        self.config = config or StoreConfig()
        self.patience = patience or Patience(deadline_s=self.config.deadline_s)
        self._transports: dict[Part, Transport] = {}
        self._states: dict[tuple[Part, str], State] = {}
        self._offline: State | None = None  # the mount's, once the remote did not answer
        self._turns = threading.BoundedSemaphore(self.config.parallel)
        self.damaged: set[str] = set()  # objects seen damaged: a push sends them again

    def transport(self, part: Part = "core") -> Transport:
        """The transport of a part."""
        if part not in self._transports:
            self._transports[part] = self._connect(part)
        return self._transports[part]

    # -- reading ---------------------------------------------------------------------------------------------

    def state(self, part: Part = "core", version: str | None = None) -> State:
        """A version of a dataset, by default the newest; empty where there is none.

        Raises:
            MissingInput: no such version.
            ServiceUnavailable: the remote did not answer, and no mount stands in for it.
        """
        if self._offline is not None and part == "core" and version in (None, self._offline.version):
            return self._offline
        try:
            wanted = version or self.patience.call(self.transport(part).head)
            if wanted is None:
                return State(None, StoreManifest())
            if (part, wanted) not in self._states:
                while len(self._states) >= STATES_KEPT:
                    self._states.pop(next(iter(self._states)))
                self._states[part, wanted] = self._load(part, wanted, required=version is not None)
            return self._states[part, wanted]
        except (Transient, NotPermitted) as error:
            # An offline notebook has no network, and often no credentials either.
            if self.mount is None or part != "core" or version not in (None, self.mount.version):
                raise
            print(f"warning: {error}; reading the mount {self.mount.root} instead", file=sys.stderr)
            self._offline = State(self.mount.version, self.mount.manifest)
            return self._offline

    def _load(self, part: Part, version: str, *, required: bool) -> State:
        transport = self.transport(part)
        where = f"{transport.dataset}, version {version}"
        data = self.patience.call(lambda: transport.manifest(version))
        if data is None:
            if required:
                raise MissingInput(f"no version {version}", where=transport.dataset, remedy="See `store log`")
            return State(version, StoreManifest())
        manifest = parse_manifest(data, version=version, part=part, where=where)
        # Versions that somebody published beside this one: both writers' work counts.
        skipped = self.patience.call(lambda: transport.skipped(manifest.parent, version))
        if skipped:
            base = self.state(part, manifest.parent).manifest if manifest.parent else StoreManifest()
            for other in skipped:
                found = self.patience.call(lambda other=other: transport.manifest(other))  # type: ignore[misc]
                if found is not None:
                    manifest.fold(parse_manifest(found, version=other, part=part, where=where), base)
        return State(version, manifest)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """See `Store.checkpoints`."""
        yield from self.state().manifest.checkpoints(self.url)

    def describe(self) -> dict[str, Any]:
        """See `Store.describe`."""
        core = self.state()
        parts: dict[Part, str | None] = {"core": core.version}
        if any(location.part == "embeddings" for location in core.manifest.objects.values()):
            parts["embeddings"] = core.manifest.parts.get("embeddings")
        return {
            "url": self.url,
            "datasets": {part: {"id": self.transport(part).dataset, "version": v} for part, v in parts.items()},
            "private": self.patience.call(self.transport().private) if core.version else True,
        }

    def pull(self, stage: str, fingerprint: str, into: Path) -> Checkpoint | None:
        """See `Store.pull`."""
        state = self.state()
        entry = state.manifest.find(stage, fingerprint)
        if entry is None:
            return None
        checkpoint = Checkpoint.from_json(entry.checkpoint, where=self.url)
        self.fetch(state.manifest, checkpoint.outputs, into, what=f"pull {stage}")
        return checkpoint

    def fetch(self, manifest: StoreManifest, outputs: Iterable[Output], into: Path, what: str = "pull") -> int:
        """Bring outputs into a folder; those that are there already stay. Returns the bytes brought."""
        missing: dict[str, list[Output]] = {}
        for output in outputs:
            if not output.matches(into):
                missing.setdefault(output.sha256, []).append(output)
        parts = self.cache / "parts" if self.cache is not None else into / ".parts"
        total = sum(same[0].size for same in missing.values())

        def bring(same: list[Output], meter: Meter) -> None:
            first, *copies = same
            if self.mount is None or not self.mount.copy(first, into, meter):
                self._download(manifest, first, into, parts, meter)
            for copy in copies:
                with atomic_path(into / copy.path) as temporary:
                    shutil.copyfile(into / first.path, temporary)

        try:
            # As many again may wait for the disk.
            run_batch(what, total, 2 * self.config.parallel, bring, missing.values())
            for folder in {(into / same[0].path).parent for same in missing.values()}:
                fsync_path(folder)
        finally:
            with contextlib.suppress(OSError):  # not empty: a cut transfer, or another process's
                parts.rmdir()
        return total

    def _download(self, manifest: StoreManifest, output: Output, into: Path, parts: Path, meter: Meter) -> None:
        where = f"{self.url}: {output.path}"
        location = manifest.objects.get(output.sha256)
        if location is None:
            raise IntegrityError(f"object {output.sha256} of {output.path} is in no version", where=where)
        wanted = Wanted(output.sha256, output.size, lambda start: self.read(location, start), where, self._turns)
        try:
            fetch(wanted, into / output.path, parts, self.patience, meter)
        except MissingObject as error:
            self.damaged.add(output.sha256)
            raise IntegrityError(
                f"object {output.sha256} of {output.path} is missing",
                where=where,
                remedy="Mend it with `store repair` from a run folder that has the file",
            ) from error
        except IntegrityError:
            self.damaged.add(output.sha256)
            raise

    def read(self, location: Location, start: int = 0) -> Iterator[bytes]:
        """An object's bytes from `start` on."""
        transport = self.transport(location.part)
        return transport.read(location.version or "", location.name, location.offset + start, location.size - start)

    # -- writing ---------------------------------------------------------------------------------------------

    def push(self, checkpoint: Checkpoint, root: Path) -> Push:
        """See `Store.push`."""
        for output in checkpoint.outputs:
            if not output.matches(root):
                raise IntegrityError(
                    f"{output.path} changed since its checkpoint was written",
                    where=str(root),
                    remedy="Run the stage again",
                )
        settle_pending(self, root)
        base = self.state()
        if self.has(base.manifest, checkpoint):
            return Push(0, 0, published=False, version=base.version)
        change = Change("push", f"push {checkpoint.stage}", checkpoint)
        sources = self.missing(checkpoint, root, base.manifest)
        part = self.part_for(checkpoint, base.manifest)
        if part == "core" or not sources:
            return publish(self, "core", base, change, sources)
        # The other dataset first: until core's manifest names them, its new objects are nobody's.
        there = self.state(part)
        new = [s for s in sources if s.sha256 not in there.manifest.objects or s.sha256 in self.damaged]
        sent = publish(self, part, there, Change("push", change.message), new) if new else Push(0, 0, published=False)
        there = self.state(part)
        change.locations = {source.sha256: there.manifest.objects[source.sha256] for source in sources}
        change.parts = {part: there.version or ""}
        done = publish(self, "core", base, change, [])
        return Push(sent.objects, sent.bytes, published=done.published, version=done.version)

    def has(self, manifest: StoreManifest, checkpoint: Checkpoint) -> bool:
        """True when a push of this checkpoint would change nothing."""
        entry = manifest.find(checkpoint.stage, checkpoint.fingerprint)
        if entry is None or Checkpoint.from_json(entry.checkpoint, where=self.url).outputs != checkpoint.outputs:
            return False
        return all(o.sha256 in manifest.objects and o.sha256 not in self.damaged for o in checkpoint.outputs)

    def missing(self, checkpoint: Checkpoint, root: Path, manifest: StoreManifest) -> list[Source]:
        """The objects of a checkpoint that no version has intact, each once."""
        unique = {output.sha256: output for output in checkpoint.outputs}
        return [
            Source(sha, output.size, root / output.path)
            for sha, output in unique.items()
            if sha not in manifest.objects or sha in self.damaged
        ]

    def part_for(self, checkpoint: Checkpoint, manifest: StoreManifest) -> Part:
        """The dataset that a checkpoint's objects go to (`store.split`)."""
        if checkpoint.stage not in EMBEDDING_STAGES or self.config.split == "never":
            return "core"
        if self.config.split == "always" or any(item.part == "embeddings" for item in manifest.objects.values()):
            return "embeddings"
        sizes = {output.sha256: output.size for output in checkpoint.outputs}
        for entry in manifest.entries:
            if entry.key[0] in EMBEDDING_STAGES:
                stored = Checkpoint.from_json(entry.checkpoint, where=self.url)
                sizes.update({output.sha256: output.size for output in stored.outputs})
        return "embeddings" if sum(sizes.values()) > self.config.split_over_bytes else "core"
