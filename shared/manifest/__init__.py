"""The manifest: the record that names and hashes everything a run made.

`python -m shared.manifest validate PATH` exits 0, 66 for a missing file, 77 for a path that leaves
the run folder, 80 for a hash or schema failure.
"""

from __future__ import annotations

from shared.manifest.model import (
    MANIFEST_VERSION,
    Artifacts,
    BundleRecord,
    Checks,
    Dataset,
    EncoderRecord,
    EnvLock,
    Git,
    Manifest,
    OutputRecord,
    StageRecord,
    StoreRecord,
    Transforms,
)
from shared.manifest.reading import load_manifest, parse_manifest, verify_files

__all__ = [
    "MANIFEST_VERSION",
    "Artifacts",
    "BundleRecord",
    "Checks",
    "Dataset",
    "EncoderRecord",
    "EnvLock",
    "Git",
    "Manifest",
    "OutputRecord",
    "StageRecord",
    "StoreRecord",
    "Transforms",
    "load_manifest",
    "parse_manifest",
    "verify_files",
]
