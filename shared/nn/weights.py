"""model.pth in: tensors and plain values, nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from shared.errors import IntegrityError


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Architecture and state of a bundle's model.pth.

    torch's restricted unpickler admits tensors and plain containers only; anything else is refused.

    Raises:
        IntegrityError: the file holds something else, or is damaged.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        architecture, state = document["architecture"], document["state"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError, ValueError) as error:
        raise IntegrityError(
            f"not a model file: {str(error).splitlines()[0]}",
            where=str(path),
            remedy="It must come from gowhy's bundle writer",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise IntegrityError("the state holds something other than tensors", where=str(path))
    return architecture, state


def as_arrays(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Tensors as numpy arrays, sharing memory."""
    return {name: tensor.numpy() for name, tensor in state.items()}
