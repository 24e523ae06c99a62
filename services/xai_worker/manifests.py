"""A run as a submission names it: its manifest read from the volume, believed only as far as it was checked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.xai_worker.http.json_body import parse_json
from services.xai_worker.http.problem import Problem
from services.xai_worker.lengths import PARTS, Lengths, lengths_of, table
from services.xai_worker.volume import MANIFEST, OutOfSight, Volume
from shared.digests import canonical_json, sha256_bytes
from shared.errors import GowhyError, IntegrityError
from shared.manifest import Manifest, parse_manifest
from shared.manifest.reading import MAX_BYTES

KEPT = 32


@dataclass(frozen=True, slots=True)
class Run:
    """A complete run whose named files are all in sight, with the sizes that its manifest says."""

    run_id: str
    sha256: str  # of the manifest's bytes
    canonical: str  # of its canonical JSON, in which spacing and order do not count
    sequences: Mapping[str, str]  # part -> sha256 of its sequence table


class Runs:
    """Runs of a volume. A manifest is parsed again when its file changed; that its files are there is asked each time."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._kept: OrderedDict[tuple[str, tuple[int, int, int]], tuple[Run, Manifest]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Run:
        """The run of that name.

        Raises:
            Problem: files-not-visible, or manifest-invalid with the reason.
        """
        try:
            run_id = self.volume.run_of(name)
            key = (run_id, self.volume.stamp(f"{run_id}/{MANIFEST}"))
            with self._lock:
                found = self._kept.get(key)
            if found is None:
                found = self._read(run_id)
                with self._lock:
                    self._kept[key] = found
                    while len(self._kept) > KEPT:
                        self._kept.popitem(last=False)
            self._in_sight(run_id, found[1])
        except OutOfSight as error:
            detail = f"{error.what}. The run must be on the volume that this service shares with train"
            raise Problem("files-not-visible", detail) from error
        return found[0]

    def lengths(self, run: Run) -> Lengths:
        """Part -> protein -> residues.

        Raises:
            Problem: the tables are not what the manifest says.
        """
        try:
            return lengths_of(Path(self.volume.root) / run.run_id, run.sequences)
        except IntegrityError as error:
            raise Problem("manifest-invalid", error.what) from error

    def _read(self, run_id: str) -> tuple[Run, Manifest]:
        data = self.volume.read(f"{run_id}/{MANIFEST}", MAX_BYTES)
        manifest = checked(data, where=f"{run_id}/{MANIFEST}")
        if manifest.run_id != run_id:
            raise Problem("manifest-invalid", f"{run_id}/{MANIFEST} is of the run {manifest.run_id}")
        if manifest.status != "complete" or manifest.model is None:
            raise Problem("manifest-invalid", f"The run {run_id} is not complete; let the pipeline finish")
        by_path = {output.path: output.sha256 for output in manifest.outputs()}
        missing = [table(part) for part in PARTS if table(part) not in by_path]
        if missing:
            raise Problem("manifest-invalid", f"The manifest does not name {missing[0]}")
        sequences = {part: by_path[table(part)] for part in PARTS}
        return Run(run_id, sha256_bytes(data), canonical_digest(parse_json(data, where=MANIFEST)), sequences), manifest

    def _in_sight(self, run_id: str, manifest: Manifest) -> None:
        sizes = {output.path: output.size for output in manifest.outputs()}
        needed = [*sizes, manifest.config_path, manifest.config_resolved_path, *manifest.checkpoints]
        needed += [] if manifest.model is None else [manifest.model.path]
        for path in dict.fromkeys(needed):
            found = self.volume.size(f"{run_id}/{path}")
            if path in sizes and found != sizes[path]:
                detail = f"{run_id}/{path} has {found} bytes; its manifest says {sizes[path]}"
                raise Problem("manifest-invalid", f"{detail}. Run the pipeline again")


def checked(data: bytes, *, where: str) -> Manifest:
    """Parse a manifest, with the reader's own reasons as a problem.

    Raises:
        Problem: manifest-invalid.
    """
    try:
        return parse_manifest(data, where=where)
    except GowhyError as error:
        raise Problem("manifest-invalid", f"{where}: {error.what[:500]}") from error


def canonical_digest(value: object) -> str:
    """sha256 of a document's canonical JSON."""
    return sha256_bytes(canonical_json(value))
