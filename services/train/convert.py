"""Turn an old pickled model into the safe form: the bundle's files, each hashed in model_manifest.json.

The pickle holds a dict; see `PARTS` and docs/artifacts.md. What it lacks may lie beside it under the
bundle's file names.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.train.legacy_pickle import read_legacy_pickle
from shared.artefacts import NPZ
from shared.atomic import atomic_path, write_bytes, write_json
from shared.digests import sha256_file
from shared.errors import CannotWrite, DataError, NotPermitted
from shared.models import bundle as layout
from shared.models.trained import TrainedModel

# key of the legacy dict -> file of the bundle; state_dict and architecture are model.pth together
PARTS = {
    "state_dict": layout.MODEL,
    "metadata": layout.METADATA,
    "architecture": layout.MODEL,
    "members": layout.MEMBERS_FILE,
    "reference": layout.REFERENCE,
    "ontology": layout.ONTOLOGY,
    "proteins": layout.FASTA,
}
NEEDED = ("state_dict", "metadata")
LOADABLE = (layout.MODEL, layout.METADATA, layout.MEMBERS_FILE, layout.ONTOLOGY, layout.FASTA)


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written; `loadable` says whether `TrainedModel.load` reads it, `problem` why not."""

    out: Path
    files: dict[str, int]  # name -> bytes
    loadable: bool
    problem: str | None


def convert(source: Path, out: Path, *, allow_legacy_pickle: bool = False) -> Converted:
    """Write the safe form of a legacy model.

    Args:
        source: `.pkl`, `.pkl.gz`, or a file of `torch.save`.
        out: a folder that is empty or does not exist.
        allow_legacy_pickle: the user's word that the file may be opened at all.

    Raises:
        NotPermitted: not allowed, or the file asks for more than data.
        DataError: it is not the layout above.
        CannotWrite: `out` holds something.
    """
    if not allow_legacy_pickle:
        raise NotPermitted(
            f"{source.name} is a pickle and can run code",
            where=str(source),
            remedy="Add --allow-legacy-pickle if you know where it is from",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CannotWrite("the folder is not empty", where=str(out), remedy="Choose another with --out")
    model = check(read_legacy_pickle(source), source)
    write_parts(model, out)
    for name in (*LOADABLE, layout.REFERENCE, layout.REFERENCE_GZIP):
        beside = source.parent / name
        if beside.is_file() and not (out / name).exists():
            write_bytes(out / name, beside.read_bytes())
    write_manifest(model, out)
    problem = why_not_loadable(out)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return Converted(out, sizes, problem is None, problem)


def check(model: Any, source: Path) -> dict[str, Any]:
    """Hold what was read to the legacy layout.

    Raises:
        DataError: another type, an unknown key, a missing one, or a value of the wrong kind.
    """
    if not isinstance(model, dict):
        raise DataError(f"a {type(model).__name__}, not a dict", where=str(source), remedy="See docs/artifacts.md")
    unknown, missing = sorted(map(str, set(model) - set(PARTS))), [key for key in NEEDED if key not in model]
    if unknown or missing:
        what = f"unknown keys: {', '.join(unknown) or 'none'}; missing keys: {', '.join(missing) or 'none'}"
        raise DataError(what, where=str(source), remedy=f"Known: {', '.join(PARTS)}")
    for key in ("metadata", "architecture", "ontology"):
        if not isinstance(model.get(key, {}), dict):
            raise DataError(f"{key} is no dict", where=str(source))
        check_plain(model.get(key, {}), f"{source}: {key}")
    for key in ("state_dict", "members", "reference"):
        if not isinstance(model.get(key, {}), dict):
            raise DataError(f"{key} is no dict", where=str(source))
        for name, value in model.get(key, {}).items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor | np.ndarray):
                raise DataError(f"{name!r} is neither tensor nor array", where=f"{source}: {key}")
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                raise DataError(f"{name!r} is an array of objects", where=f"{source}: {key}")
    return model


def check_plain(value: Any, where: str) -> None:
    """Refuse what JSON cannot hold.

    Raises:
        DataError: a tensor, an array, or a key that is no text.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DataError(f"the key {key!r} is no text", where=where)
            check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item, where)
    elif not isinstance(value, str | int | float | bool | None):
        raise DataError(f"a {type(value).__name__}, which is no plain value", where=where)


def write_parts(model: Mapping[str, Any], out: Path) -> None:
    """Write every part that the pickle has."""
    state = {name: _tensor(value) for name, value in sorted(model["state_dict"].items())}
    buffer = io.BytesIO()
    torch.save({"architecture": model.get("architecture", {}), "state": state}, buffer)
    write_bytes(out / layout.MODEL, buffer.getvalue())
    write_json(out / layout.METADATA, model["metadata"])
    for key in ("members", "reference"):
        if key in model:
            with atomic_path(out / PARTS[key]) as temporary:
                NPZ.write(temporary, {name: _array(value) for name, value in model[key].items()})
    if "ontology" in model:
        write_json(out / layout.ONTOLOGY, model["ontology"])
    if "proteins" in model:
        write_bytes(out / layout.FASTA, fasta(model["proteins"]).encode("ascii"))


def fasta(proteins: Any) -> str:
    """`(id, sequence)` pairs as FASTA.

    Raises:
        DataError: something else.
    """
    if not isinstance(proteins, list | tuple):
        raise DataError(f"a {type(proteins).__name__}, not a list of pairs", where="proteins")
    lines = []
    for item in proteins:
        if not isinstance(item, list | tuple) or len(item) != 2 or not all(_is_word(part) for part in item):
            raise DataError(f"{item!r} is no pair of id and sequence", where="proteins")
        lines.append(f">{item[0]}\n{item[1]}\n")
    return "".join(lines)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


def write_manifest(model: Mapping[str, Any], out: Path) -> None:
    """Hash every file; the manifest is written last."""
    files = {p.name: {"sha256": sha256_file(p), "size": p.stat().st_size} for p in sorted(out.iterdir())}
    reference = next((name for name in (layout.REFERENCE, layout.REFERENCE_GZIP) if name in files), None)
    metadata = model["metadata"]
    document = {
        "bundle_version": layout.BUNDLE_VERSION,
        "files": files,
        "model_path": layout.MODEL,
        "metadata_path": layout.METADATA,
        "reference_path": reference,
        "reference_storage": metadata.get("reference_storage", "external"),
        "checksums": {
            "model_path": files[layout.MODEL]["sha256"],
            "metadata_path": files[layout.METADATA]["sha256"],
            "reference_path": files[reference]["sha256"] if reference else None,
        },
        "converted_from": "legacy pickle",
    }
    write_json(out / layout.MANIFEST, document)


def why_not_loadable(out: Path) -> str | None:
    """None when `TrainedModel.load` reads the folder, else the reason."""
    missing = [name for name in LOADABLE if not (out / name).is_file()]
    if missing:
        return f"without {', '.join(missing)} it is weights and metadata, not a model that predicts"
    try:
        TrainedModel.load(out)
    except Exception as error:  # noqa: BLE001 - any failure to load is the answer
        return f"{type(error).__name__}: {error}"
    return None


def _tensor(value: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    return tensor.detach().clone().contiguous()


def _array(value: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value
