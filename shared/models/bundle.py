"""The model bundle: file names, and reading it without believing it.

model_manifest.json   relative paths, sha256 and size of every other file
model.pth             {"architecture": plain values, "state": name -> tensor}; weights_only
model_metadata.json   term index, feature specification, encoders, calibration, training record
model_members.npz     arrays of the members that are not torch
model_ontology.json   the GO graph that scores are propagated over
model_reference.fasta sequences that the homology vote searches, in train row order
model_reference.npz   KNN reference (or .npz.gz; or inside model.pth with storage `full`)
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.checkpoint import is_confined
from shared.digests import sha256_file
from shared.errors import IntegrityError, MissingInput, NotPermitted

BUNDLE_VERSION = 1
MANIFEST, MODEL, METADATA = "model_manifest.json", "model.pth", "model_metadata.json"
MEMBERS_FILE, ONTOLOGY, FASTA = "model_members.npz", "model_ontology.json", "model_reference.fasta"
REFERENCE, REFERENCE_GZIP = "model_reference.npz", "model_reference.npz.gz"
MAX_JSON_BYTES = 256 << 20
PICKLES = (".pkl", ".pickle", ".pkl.gz", ".joblib")

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """A bundle on disk. `digests` is None for files without a manifest: nothing vouches for them."""

    folder: Path
    digests: Mapping[str, str] | None
    sha256: str | None  # of model_manifest.json: the model's identity

    def path(self, name: str) -> Path:
        """Where a file is, after its hash was checked.

        Raises:
            MissingInput: it is not there.
            IntegrityError: it holds other bytes than the manifest says.
        """
        path = self.folder / name
        if not path.is_file():
            raise MissingInput(
                f"the bundle has no {name}", where=str(self.folder), remedy="Copy it beside the manifest"
            )
        if self.digests is not None:
            expected = self.digests.get(name)
            found = sha256_file(path)
            if found != expected:
                raise IntegrityError(f"{name}: expected sha256 {expected}, found {found}", where=str(self.folder))
        return path

    def json(self, name: str) -> Any:
        """A JSON file of the bundle."""
        return read_json(self.path(name))

    def has(self, name: str) -> bool:
        """True when the bundle names the file and it is there."""
        return (self.digests is None or name in self.digests) and (self.folder / name).is_file()


def find_bundle(path: Path) -> BundleFiles:
    """Resolve what the user named: a manifest, a `.pth` with a manifest beside it, or the older file names.

    Raises:
        MissingInput: there is nothing.
        NotPermitted: a pickle, or a manifest that points outside its folder.
    """
    if path.name.endswith(PICKLES):
        raise NotPermitted(
            f"{path.name} is a pickle and can run code",
            where=str(path),
            remedy="Use a bundle, or make one of it: python -m services.train convert --allow-legacy-pickle",
        )
    if path.is_dir():
        path = path / MANIFEST
    if path.suffix == ".json":
        return read_bundle_manifest(path if path.name != "manifest.json" else path.parent / MANIFEST)
    if not path.is_file():
        raise MissingInput(f"no model at {path}", remedy="Give manifest.json, model_manifest.json or model.pth")
    if (path.parent / MANIFEST).is_file():
        return read_bundle_manifest(path.parent / MANIFEST)
    if (path.parent / METADATA).is_file():
        return BundleFiles(path.parent, None, None)
    raise MissingInput(f"neither {MANIFEST} nor {METADATA} beside {path.name}", where=str(path.parent))


def read_bundle_manifest(path: Path) -> BundleFiles:
    """Parse `model_manifest.json` and confine what it names.

    Raises:
        MissingInput, IntegrityError, NotPermitted: see `find_bundle`.
    """
    if not path.is_file():
        raise MissingInput(f"no {MANIFEST} in {path.parent}", remedy="Run the pipeline to its end")
    document = read_json(path)
    try:
        version, files = document["bundle_version"], document["files"]
        digests = {name: record["sha256"] for name, record in files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"not a model manifest: {error}", where=str(path)) from error
    if version != BUNDLE_VERSION:
        raise IntegrityError(f"bundle_version {version!r}; this program reads {BUNDLE_VERSION}", where=str(path))
    root = path.parent.resolve()
    for name in digests:
        if not is_confined(name) or not (root / name).resolve().is_relative_to(root):
            raise NotPermitted(f"{name!r} leaves the bundle's folder", where=str(path))
    return BundleFiles(path.parent, digests, sha256_file(path))


def read_json(path: Path) -> Any:
    """A JSON file, capped.

    Raises:
        IntegrityError: too large or not JSON.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise IntegrityError(f"{path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read", where=str(path))
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not JSON: {error}", where=str(path)) from error


def read_npz(path: Path) -> Arrays:
    """Arrays of an .npz or .npz.gz; never objects.

    Raises:
        IntegrityError: not an archive of plain arrays.
    """
    try:
        source: Any = io.BytesIO(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else path
        with np.load(source, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError) as error:
        raise IntegrityError(f"not plain arrays: {error}", where=str(path)) from error


def under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
