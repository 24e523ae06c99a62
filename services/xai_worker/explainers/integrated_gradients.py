"""Integrated gradients along a straight line from a neutral input, with a measured completeness error.

The parts must sum to F(x) - F(x'). The difference is computed here, on the very function that was
integrated: captum's layer variant evaluates F(x') on baseline tokens instead, which is another
function wherever the model looks at the tokens themselves (token dropout, padding masks).

All asked terms share one forward pass per node of the quadrature, and only as many nodes are taken as
completeness needs; captum integrates each term by itself, with a fixed number of nodes.

Source: Sundararajan et al. 2017, arXiv 1703.01365; Gauss-Legendre quadrature as in captum, the oracle of
the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from services.xai_worker.explainers.base import (
    Advance,
    Attribution,
    Completeness,
    FloatArray,
    Path,
    ResiduePath,
    Subject,
    finite_sum,
    residue_path,
)

BATCH_UNITS = 1024
# Sums can agree by luck on a coarse grid: below so many nodes the error has to be ten times smaller.
FINE_STEPS = 16
SMALLEST_DIFFERENCE = 1e-3  # logits; below it a relative error says nothing

# Points on the line, each a tuple of tensors [B, ...] -> logits [B, asked terms].
Function = Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, slots=True)
class Quadrature:
    """How finely the line is followed: the nodes are doubled until the parts sum to the whole.

    Args:
        first_steps: quadrature nodes of the first try.
        max_steps: nodes after which an unconverged result is kept and flagged.
        tolerance: accepted completeness error.
        batch_units: units (residues, nodes) per forward batch; fixed, because batching changes last bits.
            Small, because a batch that outgrows the processor's cache takes longer per node.
    """

    first_steps: int = 8
    max_steps: int = 256
    tolerance: float = 0.01
    batch_units: int = BATCH_UNITS

    def tries(self) -> list[int]:
        """8, 16, 32, ... up to `max_steps`."""
        steps, found = self.first_steps, []
        while steps <= self.max_steps:
            found.append(steps)
            steps *= 2
        return found

    def integrate(self, path: Path) -> list[Attribution]:
        """Attribute every column of F; `values` keeps the input's shape [units, width].

        A column that misses the tolerance goes on with twice the nodes; of its tries, the one with the
        smallest error is kept.
        """
        inputs, baseline = path.inputs().detach(), path.baseline().detach()
        moved = (inputs - baseline)[0].double().cpu().numpy()
        return [
            measured(
                gradients[0].double().cpu().numpy() * moved, score, reference, steps=steps, tolerance=self.tolerance
            )
            for gradients, score, reference, steps in self.gradients(
                lambda points: path.logits(points[0]), (inputs,), (baseline,), inputs.shape[1]
            )
        ]

    def gradients(
        self, function: Function, inputs: tuple[Tensor, ...], baseline: tuple[Tensor, ...], units: int
    ) -> list[tuple[tuple[Tensor, ...], float, float, int]]:
        """Mean gradients on the line, by column: (one tensor per input, without batch axis), F(x), F(x'), nodes.

        Args:
            function: F over any number of inputs.
            inputs: x, tensors [1, ...].
            baseline: x', of the same shapes.
            units: of one point, for the size of a batch.
        """
        with torch.inference_mode():
            score, reference = (function(points)[0].double().cpu().tolist() for points in (inputs, baseline))
        best: dict[int, tuple[float, tuple[Tensor, ...], int]] = {}
        open_columns = list(range(len(score)))
        for steps in self.tries():
            batch = max(1, self.batch_units // units)
            means = mean_gradients(function, inputs, baseline, open_columns, steps=steps, batch=batch)
            for column, mean in zip(open_columns, means, strict=True):
                error = _error(_attributed(mean, inputs, baseline), score[column] - reference[column])
                if column not in best or best[column][2] < FINE_STEPS or error < best[column][0]:
                    best[column] = (error, mean, steps)
            accepted = self.tolerance if steps >= FINE_STEPS else self.tolerance / 10
            open_columns = [column for column in open_columns if best[column][0] > accepted]
            if not open_columns:
                break
        return [(best[c][1], score[c], reference[c], best[c][2]) for c in range(len(score))]


def mean_gradients(
    function: Function,
    inputs: tuple[Tensor, ...],
    baseline: tuple[Tensor, ...],
    columns: Sequence[int],
    *,
    steps: int,
    batch: int,
) -> list[tuple[Tensor, ...]]:
    """Gauss-Legendre means of dF/dx on the line, one tuple (without batch axis) per column.

    One forward pass per batch of nodes, one backward pass per column.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    totals = [[torch.zeros_like(x[0]) for x in inputs] for _ in columns]
    for start in range(0, steps, batch):
        part = slice(start, start + batch)
        points = tuple(
            (b + _column(0.5 + 0.5 * nodes[part], x) * (x - b)).requires_grad_(True)
            for x, b in zip(inputs, baseline, strict=True)
        )
        with torch.enable_grad():
            logits = function(points)
            for place, column in enumerate(columns):
                found = torch.autograd.grad(
                    logits[:, column].sum(),
                    points,
                    retain_graph=place + 1 < len(columns),
                    allow_unused=True,
                )
                for total, gradient in zip(totals[place], found, strict=True):
                    if gradient is not None:
                        total.add_((_column(0.5 * weights[part], total[None]) * gradient).sum(0))
    return [tuple(total) for total in totals]


def measured(values: FloatArray, score: float, reference: float, *, steps: int, tolerance: float) -> Attribution:
    """An attribution with its completeness."""
    explained, attributed = score - reference, finite_sum(values)
    error = _error(attributed, explained)
    return Attribution(
        values, score, reference, Completeness(explained, attributed, error, tolerance, steps, error <= tolerance)
    )


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

    def accepts(self, path: Path) -> bool:
        """Any path from residues."""
        return isinstance(path, ResiduePath)

    def work(self, path: Path) -> int:
        """One unit per asked term."""
        return int(path.logits(path.inputs()).shape[1])

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """All asked terms in one integration."""
        covered = residue_path(path).covered
        found = []
        for whole in self.quadrature.integrate(path):
            values = np.where(covered, whole.values.sum(axis=-1), np.nan)
            found.append(Attribution(values, whole.score, whole.reference, whole.completeness))
        advance(len(found))
        return found


def _column(values: FloatArray, like: Tensor) -> Tensor:
    """Numbers as a column [n, 1, ...] that multiplies a batch of tensors [n, ...] like `like` [1, ...]."""
    column: Tensor = torch.from_numpy(values).to(like)
    return column.reshape(-1, *[1] * (like.dim() - 1))


def _attributed(mean: tuple[Tensor, ...], inputs: tuple[Tensor, ...], baseline: tuple[Tensor, ...]) -> float:
    parts = zip(mean, inputs, baseline, strict=True)
    return sum(float((m.double() * (x[0].double() - b[0].double())).sum()) for m, x, b in parts)


def _error(attributed: float, explained: float) -> float:
    return abs(attributed - explained) / max(abs(explained), SMALLEST_DIFFERENCE)
