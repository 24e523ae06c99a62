"""Fitted level-1 models on disk: one part per fold (or the one part `all` of a vote), and back.

Torch arrays go to `models/level1/<name>.pth`, others to `<name>.npz`; either way an entry is
`<part>/<array>`. `<name>.json` says how each part is rebuilt. Nothing in them depends on the time or on
the path, so equal fits are equal files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from services.train.models.inputs import Reader
from shared.atomic import atomic_path
from shared.errors import GowhyError, IntegrityError
from shared.models.base import LOGIT_LIMIT, Level1Model
from shared.models.features import FloatArray, IntArray
from shared.models.members import MEMBERS
from shared.nn.transforms import BLOCK_ROWS, row_blocks

Arrays = Mapping[str, npt.NDArray[Any]]
WHOLE = "all"  # the part of a model that is fitted once


def weights_path(name: str) -> str:
    """The artefact that holds a model's arrays."""
    return f"models/level1/{name}.{'pth' if MEMBERS[name].is_torch else 'npz'}"


def record_path(name: str) -> str:
    """The artefact that says how a model was fitted and how to rebuild its parts."""
    return f"models/level1/{name}.json"


ArrayT = TypeVar("ArrayT")


def join_parts(parts: Mapping[str, Mapping[str, ArrayT]]) -> dict[str, ArrayT]:
    """Arrays of all parts under `<part>/<array>`, in a fixed order."""
    return {f"{part}/{name}": arrays[name] for part, arrays in sorted(parts.items()) for name in sorted(arrays)}


def write_torch(path: Path, arrays: Arrays) -> None:
    """Save arrays as a dict of plain tensors; equal arrays give equal bytes.

    Written through an open file, because `torch.save(..., path)` puts the file's name into the archive.
    """
    with path.open("wb") as file:
        torch.save({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, file)


def read_torch(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The inverse of `write_torch`; nothing but tensors is unpickled."""
    return {name: tensor.numpy() for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items()}


def read_models(read: Reader, name: str) -> dict[str, Level1Model]:
    """Rebuild every part of a level-1 model: fold number, or `all`, -> the fitted model.

    Raises:
        IntegrityError: arrays that the record needs are missing.
    """
    record = read(record_path(name))
    stored = read(weights_path(name))
    arrays = read_torch(stored) if isinstance(stored, Path) else stored
    models: dict[str, Level1Model] = {}
    for part, description in sorted(record["parts"].items()):
        prefix = f"{part}/"
        own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        try:
            models[part] = MEMBERS[record["kind"]].restore(description["architecture"], own)
        except (KeyError, RuntimeError) as error:
            raise IntegrityError(
                f"part {part} of {name} cannot be rebuilt: {error}",
                where=weights_path(name),
                remedy="Run stage_07_level1_preds again",
            ) from error
    return models


def mapped_array(path: Path, shape: tuple[int, int], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """An array to fill, in a new file whose pages the system may drop; one without elements is in memory."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return array


def write_logits(
    path: Path,
    logits: Callable[[IntArray], FloatArray],
    rows: IntArray,
    terms: int,
    advance: Callable[[int], None] = lambda _rows: None,
) -> None:
    """Compute and write float16 logits [len(rows), terms] block by block; the file is whole or absent.

    `advance` hears of every block.

    Raises:
        GowhyError: a logit is not finite.
    """
    with atomic_path(path) as temporary:
        if not len(rows) or not terms:
            with temporary.open("wb") as file:
                np.save(file, np.zeros((len(rows), terms), np.float16), allow_pickle=False)
            return
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(len(rows), terms))
        for place, block in row_blocks(rows, BLOCK_ROWS):
            values = logits(block)
            if not np.isfinite(values).all():
                raise GowhyError(
                    "a logit is not finite",
                    where=str(path),
                    remedy="Lower the model's learning_rate, or check the embeddings for NaN",
                )
            array[place] = np.clip(values, -LOGIT_LIMIT, LOGIT_LIMIT)
            advance(len(block))
        array.flush()
