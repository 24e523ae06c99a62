"""One place that makes a process repeatable, and says how it did."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch

# cuBLAS reads this when it first starts; without it, its reductions are not repeatable.
CUBLAS_WORKSPACE = ":4096:8"


def make_deterministic(threads: int) -> dict[str, Any]:
    """Fix the thread count, because the order of sums depends on it, and ask for deterministic algorithms.

    Returns:
        `determinism_record()`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # TensorFloat-32 rounds factors to 10 bits: three digits less than the CPU path.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return determinism_record()


def seed_everything(seed: int, threads: int) -> dict[str, Any]:
    """Seed the global generators of Python, numpy and torch, and `make_deterministic`.

    Fitting and random weights draw from generators of their own; this covers whatever a library
    draws from the global ones.

    Returns:
        `determinism_record()`, with the seed.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return {"seed": seed, **make_deterministic(threads)}


def determinism_record() -> dict[str, Any]:
    """The flags as they are now, for the manifest; plain JSON values."""
    return {
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "python_hash_seed": os.environ.get("PYTHONHASHSEED", "random"),
    }
