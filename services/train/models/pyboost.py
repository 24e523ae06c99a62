"""Boosted trees fitted by Py-Boost on a GPU, handed over as LightGBM's text.

Fitting needs the optional package `py-boost` (0.5) with CuPy and an Nvidia GPU. What comes out is the text that
LightGBM itself would have written, so that predicting needs neither, and nothing is unpickled.

Source of the algorithm: Py-Boost (SketchBoost, NeurIPS 2022), the boosted trees of ProtBoost.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.config.level1 import GbdtConfig
from shared.errors import ConfigError, MissingInput
from shared.models.features import FloatArray

Array = npt.NDArray[Any]
WHERE = "level1.gbdt.library"
OTHERWISE = "or set level1.gbdt.library=lightgbm"
NEVER = 1 << 30  # trees between two lines of Py-Boost's own output
FIELDS = 4  # of a node in Py-Boost's inference format: feature, threshold, left, right
DEFAULT_LEFT = 2  # LightGBM's decision_type of a numerical split; features are never missing


def fit_trees(
    features: FloatArray,
    labels: npt.NDArray[np.bool_],
    weights: FloatArray,
    options: GbdtConfig,
    *,
    names: Sequence[str],
    seed: int,
    device: str,
) -> bytes:
    """Fit binary labels [n] to features [n, len(names)] and return LightGBM's text.

    Raises:
        ConfigError: the run computes on the CPU.
        MissingInput: Py-Boost is not installed, or sees no GPU.
    """
    if not device.startswith("cuda"):
        raise ConfigError(
            f"Py-Boost fits on an Nvidia GPU, and this run computes on {device}",
            where=WHERE,
            remedy=f"Run with --device cuda on a machine that has one, {OTHERWISE}",
        )
    model = _booster()(
        "bce",
        ntrees=options.trees,
        lr=options.learning_rate,
        lambda_l2=options.l2,
        max_depth=max(1, math.ceil(math.log2(options.leaves))),  # its trees grow by level, to so many leaves at most
        min_data_in_leaf=options.min_pairs,
        es=0,
        seed=seed,
        verbose=NEVER,
    )
    model.fit(features, labels.astype(np.float32)[:, None], sample_weight=weights[:, None])
    model.to_cpu()
    return lightgbm_text(model, names)


def _booster() -> Any:
    """Py-Boost's class; it is exported only where the package finds a GPU."""
    try:
        package = importlib.import_module("py_boost")
    except ImportError as error:
        raise MissingInput(
            f"Py-Boost cannot be imported: {error}",
            where=WHERE,
            remedy=f"Install py-boost==0.5.2 and the CuPy of the machine's CUDA version, {OTHERWISE}",
        ) from error
    if not hasattr(package, "GradientBoosting"):
        raise MissingInput(
            "Py-Boost finds no Nvidia GPU",
            where=WHERE,
            remedy=f"Check that nvidia-smi runs and that CuPy fits the CUDA version, {OTHERWISE}",
        )
    return package.GradientBoosting


def lightgbm_text(model: Any, names: Sequence[str]) -> bytes:
    """A fitted single-output Py-Boost model, on the CPU, as LightGBM's model file.

    Both send a value to the right where it is above the threshold, and number leaves as -1 - leaf.
    """
    base = float(np.asarray(model.base_score).ravel()[0])
    trees = [_tree(np.asarray(tree.test_format), np.asarray(tree.values)[:, 0]) for tree in model.models]
    if trees:  # LightGBM's format has no base score: its own first tree carries it too
        trees[0] = (*trees[0][:-1], trees[0][-1] + base)
    bodies = [f"Tree={number}\n{_body(*tree)}\n\n\n" for number, tree in enumerate(trees)]
    head = [
        "tree",
        "version=v4",
        "num_class=1",
        "num_tree_per_iteration=1",
        "label_index=0",
        f"max_feature_idx={len(names) - 1}",
        "objective=binary sigmoid:1",
        f"feature_names={' '.join(names)}",
        f"feature_infos={' '.join(['none'] * len(names))}",
        f"tree_sizes={' '.join(str(len(body)) for body in bodies)}",
    ]
    return ("\n".join(head) + "\n\n" + "".join(bodies) + "end of trees\n\nparameters:\nend of parameters\n").encode()


def _tree(nodes: Array, values: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Feature, threshold, left and right of every split, and the values of the leaves."""
    table = nodes.reshape(-1, FIELDS)
    feature, threshold = np.abs(table[:, 0]).astype(np.int64) - 1, table[:, 1].astype(np.float64)
    left, right = table[:, 2].astype(np.int64), table[:, 3].astype(np.int64)
    leaves = values.astype(np.float64)
    if len(table) == 1 and left[0] == right[0] == -1:  # a tree without a split stands as one whose sides are the same
        right, leaves = np.array([-2]), np.array([leaves[0], leaves[0]])
    return feature, threshold, left, right, leaves[: len(feature) + 1]


def _body(feature: Array, threshold: Array, left: Array, right: Array, leaves: Array) -> str:
    splits, none = len(feature), "0"
    rows = {
        "num_leaves": [len(leaves)],
        "num_cat": [0],
        "split_feature": feature.tolist(),
        "split_gain": [none] * splits,
        "threshold": _exact(threshold),
        "decision_type": [DEFAULT_LEFT] * splits,
        "left_child": left.tolist(),
        "right_child": right.tolist(),
        "leaf_value": _exact(leaves),
        "leaf_weight": [none] * len(leaves),
        "leaf_count": [none] * len(leaves),
        "internal_value": [none] * splits,
        "internal_weight": [none] * splits,
        "internal_count": [none] * splits,
        "is_linear": [0],
        "shrinkage": [1],
    }
    return "\n".join(f"{name}={' '.join(map(str, row))}" for name, row in rows.items())


def _exact(values: Array) -> Iterator[str]:
    """Digits that read back as the same float64."""
    return (repr(value) for value in values.tolist())
