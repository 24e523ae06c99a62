"""Integrated gradients along a straight line from a neutral input, with a measured completeness error.

The parts must sum to F(x) - F(x'). The difference is computed here, on the very function that was
integrated: captum's layer variant evaluates F(x') on baseline tokens instead, which is another
function wherever the model looks at the tokens themselves (token dropout, padding masks).

Source: Sundararajan et al. 2017, arXiv 1703.01365; Gauss-Legendre quadrature as in captum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients

from services.xai_worker.explainers.base import (
    Advance,
    Attribution,
    Completeness,
    FloatArray,
    Path,
    ResiduePath,
    Subject,
    finite_sum,
)

BATCH_UNITS = 8_192
SMALLEST_DIFFERENCE = 1e-3  # logits; below it a relative error says nothing


@dataclass(frozen=True, slots=True)
class Quadrature:
    """How finely the line is followed: the nodes are doubled until the parts sum to the whole.

    Args:
        first_steps: quadrature nodes of the first try.
        max_steps: nodes after which an unconverged result is kept and flagged.
        tolerance: accepted completeness error.
        batch_units: units (residues, nodes) per forward batch; fixed, because batching changes last bits.
    """

    first_steps: int = 16
    max_steps: int = 256
    tolerance: float = 0.01
    batch_units: int = BATCH_UNITS

    def tries(self) -> list[int]:
        """16, 32, ... up to `max_steps`."""
        steps, found = self.first_steps, []
        while steps <= self.max_steps:
            found.append(steps)
            steps *= 2
        return found

    def integrate(self, path: Path, column: int) -> Attribution:
        """Attribute one column of F; `values` keeps the input's shape [units, width].

        Keeps the try with the smallest error where none meets the tolerance.
        """
        inputs, baseline = path.inputs(), path.baseline()
        with torch.inference_mode():
            score, reference = (float(path.logits(point)[0, column]) for point in (inputs, baseline))
        explained, method = score - reference, CaptumIntegratedGradients(path.logits)
        batch = max(1, self.batch_units // max(1, inputs.shape[1]))
        best: Attribution | None = None
        for steps in self.tries():
            gradients = method.attribute(
                inputs, baseline, target=column, n_steps=steps, method="gausslegendre", internal_batch_size=batch
            )
            values = gradients[0].detach().double().cpu().numpy()
            found = self._measured(values, score, reference, explained, steps)
            if best is None or _error(found) < _error(best):
                best = found
            if _error(found) <= self.tolerance:
                break
        assert best is not None, "first_steps is at most max_steps"  # noqa: S101
        return best

    def _measured(
        self, values: FloatArray, score: float, reference: float, explained: float, steps: int
    ) -> Attribution:
        attributed = finite_sum(values)
        error = abs(attributed - explained) / max(abs(explained), SMALLEST_DIFFERENCE)
        completeness = Completeness(explained, attributed, error, self.tolerance, steps, error <= self.tolerance)
        return Attribution(values, score, reference, completeness)


@dataclass(frozen=True, slots=True)
class IntegratedGradients:
    """Residue attributions that sum to F(x) - F(x').

    x' replaces every residue's embedding by the mean of the twenty amino acids' embeddings and keeps
    special tokens. A zero or padding vector would be singular under layer normalisation.
    """

    name: ClassVar[str] = "integrated_gradients"
    subject: ClassVar[Subject] = "residues"

    quadrature: Quadrature = field(default_factory=Quadrature)

    @property
    def label(self) -> str:
        """The name; its options change precision only."""
        return self.name

    def work(self, path: Path) -> int:
        """One unit per asked term."""
        return int(path.logits(path.inputs()).shape[1])

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """One integration per asked term."""
        if not isinstance(path, ResiduePath):
            raise TypeError(f"{path.model} has no residues to attribute to")
        with torch.inference_mode():
            columns = path.logits(path.inputs()).shape[1]
        found = []
        for column in range(columns):
            whole = self.quadrature.integrate(path, column)
            values = np.where(path.covered, whole.values.sum(axis=-1), np.nan)
            found.append(Attribution(values, whole.score, whole.reference, whole.completeness))
            advance(1)
        return found


def _error(attribution: Attribution) -> float:
    assert attribution.completeness is not None  # noqa: S101 - set by `_measured`
    return attribution.completeness.error
