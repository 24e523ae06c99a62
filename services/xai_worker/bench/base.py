"""What a section of the benchmark is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.xai_worker.stored import StoredRun
from shared.errors import MissingInput
from shared.manifest import load_manifest
from shared.models.trained import TrainedModel

SEED = 53
BOOTSTRAP_DRAWS = 2000
FloatArray = npt.NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Release:
    """A finished run with its model, and the known sites of its proteins."""

    name: str
    run: StoredRun
    model: TrainedModel
    sha256: str
    sites: Mapping[tuple[str, str], frozenset[int]] = field(default_factory=dict)

    @classmethod
    def load(cls, manifest: Path, sites: Mapping[tuple[str, str], frozenset[int]] | None = None) -> Release:
        """Verify and load a run.

        Raises:
            MissingInput: the run has no model bundle.
        """
        record = load_manifest(manifest)
        if record.model is None:
            raise MissingInput("the run has no model bundle", where=str(manifest), remedy="Run the pipeline again")
        return cls(
            record.run_id, StoredRun(manifest.parent), TrainedModel.load(manifest), record.model.sha256, sites or {}
        )


@dataclass(frozen=True)
class Material:
    """What the benchmark measures on.

    Attributes:
        release: the model release that the results are bound to.
        planted: runs on generated proteins, one per seed.
        permuted: such a run with permuted labels, by the name of the run with the true ones.
        residues: folder with binding residues (`GOWHY_DATA/residues`); None where there is none.
        limit: at most so many items per cell, for a quick look; None for the full size.
    """

    release: Release
    planted: Sequence[Release]
    permuted: Mapping[str, Release]
    residues: Path | None
    limit: int | None = None

    def at_most(self, count: int) -> int:
        """The full size, or the quick one."""
        return count if self.limit is None else min(count, self.limit)


@dataclass(frozen=True, slots=True)
class Check:
    """One gate of the benchmark. `passed` None: it could not be measured, and the text says why."""

    name: str
    passed: bool | None
    measured: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: named series of (x, y) points, or bars with intervals."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float | str, float]]]
    kind: str = "lines"  # or "bars"


@dataclass(frozen=True)
class Section:
    """What one section found."""

    title: str
    text: str
    rows: Sequence[Row]
    checks: Sequence[Check]
    figures: Sequence[Figure] = ()


Measure = Callable[[Material], Section]


def mean_interval(values: Sequence[float] | FloatArray, seed: int = SEED) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval; NaN for nothing."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, len(array), (BOOTSTRAP_DRAWS, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [0.025, 0.975])
    return float(array.mean()), float(low), float(high)


def unseen(release: Release) -> list[str]:
    """Proteins that no fold was fitted on, with known sites of terms that the model scores."""
    places = release.run.places
    return sorted(
        {p for p, term in release.sites if p in places and places[p].fold is None and term in release.run.stacker_terms}
    )
