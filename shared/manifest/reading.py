"""Reading a manifest that nobody vouches for: cap, parse, check, confine, hash, and only then use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.checkpoint import is_confined
from shared.digests import sha256_file
from shared.errors import IntegrityError, MissingInput, NotPermitted
from shared.manifest.model import MANIFEST_VERSION, Manifest

MAX_BYTES = 16 << 20


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Parse and check the document alone; no file beside it is touched.

    Raises:
        IntegrityError: too large, not JSON, another major version, or not what the schema says.
        NotPermitted: a path in it leaves the run folder.
    """
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"manifest of {len(data)} bytes; at most {MAX_BYTES} are read", where=where)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"not JSON: {error}", where=where, remedy="Was the file cut off? Run the pipeline again"
        ) from error
    check_version(value, where=where)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise IntegrityError(f"does not follow schema/manifest.v1.json: {problems}", where=where) from error
    for path in manifest.paths():
        if not is_confined(path):
            raise NotPermitted(f"path {path!r} leaves the run folder", where=where)
    return manifest


def check_version(value: Any, *, where: str) -> None:
    """Refuse another major version before anything else is believed."""
    version = value.get("manifest_version") if isinstance(value, dict) else None
    if not isinstance(version, str) or version.partition(".")[0] != MANIFEST_VERSION.partition(".")[0]:
        raise IntegrityError(f"manifest_version {version!r}; this program reads {MANIFEST_VERSION}", where=where)


def read_bytes_capped(path: Path) -> bytes:
    """Read at most the cap plus one byte, so that a huge file is refused unread."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingInput(f"no manifest at {path}", remedy="Give the path of a run's manifest.json") from error


def verify_files(manifest: Manifest, folder: Path) -> int:
    """Hash every file the manifest names; returns how many.

    Raises:
        IntegrityError: a file is missing or holds other bytes; the message has the path and both hashes.
        NotPermitted: a path reaches outside the folder through a link.
    """
    root = folder.resolve()
    for path in manifest.paths():
        if not (root / path).resolve().is_relative_to(root):
            raise NotPermitted(f"{path} points outside the run folder", where=str(folder))
    outputs = manifest.outputs()
    for output in outputs:
        check_hash(root, output.path, output.sha256)
    for path in [manifest.config_path, manifest.config_resolved_path, *manifest.checkpoints]:
        if not (root / path).is_file():
            raise IntegrityError(f"{path} is missing", where=str(folder))
    if manifest.model is not None:
        check_hash(root, manifest.model.path, manifest.model.sha256)
    return len(outputs)


def check_hash(root: Path, path: str, expected: str) -> None:
    """Compare one file with its sha256.

    Raises:
        IntegrityError: it is missing or holds other bytes.
    """
    file = root / path
    remedy = "Run the pipeline again; it restores what is missing or changed"
    if not file.is_file():
        raise IntegrityError(f"{path} is missing; expected sha256 {expected}", where=str(root), remedy=remedy)
    found = sha256_file(file)
    if found != expected:
        raise IntegrityError(
            f"{path} changed: expected sha256 {expected}, found {found}", where=str(root), remedy=remedy
        )


def load_manifest(path: Path, *, complete: bool = True, verify: bool = True) -> Manifest:
    """Read a manifest for use.

    Args:
        path: manifest.json in a run folder.
        complete: refuse a run that has not finished.
        verify: hash every named file first.

    Raises:
        MissingInput: no such file. IntegrityError, NotPermitted: see `parse_manifest`, `verify_files`.
    """
    manifest = parse_manifest(read_bytes_capped(path), where=str(path))
    if complete and manifest.status != "complete":
        raise IntegrityError(
            f"the run is {manifest.status}", where=str(path), remedy="Let the pipeline finish; run it again to resume"
        )
    if verify:
        verify_files(manifest, path.parent)
    return manifest
