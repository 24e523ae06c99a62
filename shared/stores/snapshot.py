"""A frozen snapshot on a local path: plain files, readable without network.

`files/<artefact path>` holds the newest checkpoint of every stage, `MANIFEST.json` says what they are. Kaggle
mounts an attached dataset like that, read-only.
"""

from __future__ import annotations

from pathlib import Path

from shared.checkpoint import Output
from shared.errors import MissingInput
from shared.stores.base import MANIFEST_NAME, Meter
from shared.stores.manifest import StoreManifest, parse_manifest
from shared.stores.transfer import copy_file

FILES = "files"


class Snapshot:
    """A folder that `freeze` wrote.

    Raises:
        MissingInput: there is no manifest in it.
        IntegrityError: its manifest is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            data = (root / MANIFEST_NAME).read_bytes()
        except OSError as error:
            raise MissingInput(
                f"no {MANIFEST_NAME}", where=str(root), remedy="Attach the dataset, or write one with `store freeze`"
            ) from error
        self.manifest: StoreManifest = parse_manifest(data, version=None, part="core", where=str(root))
        self.version = f"mount-{self.manifest.seq}"
        self._paths = {sha: path for path, sha in self.manifest.files.items()}

    def copy(self, output: Output, into: Path, meter: Meter) -> bool:
        """Copy an output from the mount; False when the mount does not have those very bytes."""
        source = self.path_of(output.sha256)
        if source is None or source.stat().st_size != output.size:
            return False
        target = into / output.path
        if copy_file(source, target) != output.sha256:
            target.unlink()
            return False
        meter(output.size)
        return True

    def path_of(self, sha256: str) -> Path | None:
        """The plain file that should hold an object."""
        path = self._paths.get(sha256)
        source = self.root / FILES / path if path is not None else None
        return source if source is not None and source.is_file() else None
