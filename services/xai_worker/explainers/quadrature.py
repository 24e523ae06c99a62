"""The integral of gradients along a straight line, followed as finely as completeness needs.

The parts must sum to F(x) - F(x'). The difference is computed here, on the very function that was
integrated: captum's layer variant evaluates F(x') on baseline tokens instead, which is another
function wherever the model looks at the tokens themselves (token dropout, padding masks).

All asked terms share one forward pass per node of the quadrature, and only as many nodes are taken as
completeness needs; captum integrates each term by itself, with a fixed number of nodes.

Gauss-Legendre nodes as in captum, the oracle of the tests. Where doubling them does not help (a maximum or
a rectifier that switches on the line), the line is halved there instead: the parts of any piece [a, b]
must sum to F(b) - F(a), so every piece carries its own error and the worst is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.xai_worker.explainers.base import Attribution, Completeness, FloatArray, Path, finite_sum

BATCH_UNITS = 1024
# Sums can agree by luck on a coarse grid: below so many nodes the error has to be ten times smaller.
FINE_STEPS = 16
# Logits. Stored scores are float16, whose steps around 1 are 5e-4 to 1e-3: a hundredth of this is below what a score can say.
SMALLEST_DIFFERENCE = 0.05
PIECE_STEPS = 8  # nodes on each piece of a line that had to be halved

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
        for column in open_columns:
            if best[column][0] > self.tolerance:
                found = self._piecewise(function, inputs, baseline, column, batch=batch)
                if found is not None:
                    best[column] = (0.0, *found)
        return [(best[c][1], score[c], reference[c], best[c][2]) for c in range(len(score))]

    def _piecewise(
        self, function: Function, inputs: tuple[Tensor, ...], baseline: tuple[Tensor, ...], column: int, *, batch: int
    ) -> tuple[tuple[Tensor, ...], int] | None:
        """One column's mean gradients and nodes; the piece of the line with the largest error is halved, again and again.

        None where `max_steps` nodes are not enough: errors of pieces count by their size, so that none cancel by luck.
        """

        def value(at: float) -> float:
            with torch.inference_mode():
                point = tuple(b + at * (x - b) for x, b in zip(inputs, baseline, strict=True))
                return float(function(point)[0, column])

        def piece(low: float, high: float) -> Piece:
            mean = mean_gradients(
                function, inputs, baseline, [column], steps=PIECE_STEPS, batch=batch, span=(low, high)
            )[0]
            return Piece(low, high, mean, _attributed(mean, inputs, baseline) - (values[high] - values[low]))

        values = {0.0: value(0.0), 1.0: value(1.0)}
        whole = values[1.0] - values[0.0]
        pieces = [piece(0.0, 1.0)]
        while sum(abs(p.error) for p in pieces) > self.tolerance * max(abs(whole), SMALLEST_DIFFERENCE):
            if (len(pieces) + 1) * PIECE_STEPS > self.max_steps:
                return None
            worst = max(pieces, key=lambda p: abs(p.error))
            pieces.remove(worst)
            middle = (worst.low + worst.high) / 2
            values[middle] = value(middle)
            pieces += [piece(worst.low, middle), piece(middle, worst.high)]
        pieces.sort(key=lambda p: p.low)  # a sum's last bits depend on its order
        sums = tuple(torch.stack(parts).sum(0) for parts in zip(*(p.mean for p in pieces), strict=True))
        return sums, len(pieces) * PIECE_STEPS


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Part of the line: what it adds to the mean gradients, and by how much its parts miss F(high) - F(low)."""

    low: float
    high: float
    mean: tuple[Tensor, ...]
    error: float


def mean_gradients(
    function: Function,
    inputs: tuple[Tensor, ...],
    baseline: tuple[Tensor, ...],
    columns: Sequence[int],
    *,
    steps: int,
    batch: int,
    span: tuple[float, float] = (0.0, 1.0),
) -> list[tuple[Tensor, ...]]:
    """Gauss-Legendre means of dF/dx on the line, one tuple (without batch axis) per column.

    Of a part of the line (`span`), what that part adds to the mean.

    One forward pass per batch of nodes, one backward pass per column.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    width = span[1] - span[0]
    nodes, weights = span[0] + width * (0.5 + 0.5 * nodes), width * (0.5 * weights)
    totals = [[torch.zeros_like(x[0]) for x in inputs] for _ in columns]
    for start in range(0, steps, batch):
        part = slice(start, start + batch)
        points = tuple(
            (b + _column(nodes[part], x) * (x - b)).requires_grad_(True) for x, b in zip(inputs, baseline, strict=True)
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
                        total.add_((_column(weights[part], total[None]) * gradient).sum(0))
    return [tuple(total) for total in totals]


def measured(values: FloatArray, score: float, reference: float, *, steps: int, tolerance: float) -> Attribution:
    """An attribution with its completeness."""
    explained, attributed = score - reference, finite_sum(values)
    error = _error(attributed, explained)
    return Attribution(
        values, score, reference, Completeness(explained, attributed, error, tolerance, steps, error <= tolerance)
    )


def _column(values: FloatArray, like: Tensor) -> Tensor:
    """Numbers as a column [n, 1, ...] that multiplies a batch of tensors [n, ...] like `like` [1, ...]."""
    column: Tensor = torch.from_numpy(values).to(like)
    return column.reshape(-1, *[1] * (like.dim() - 1))


def _attributed(mean: tuple[Tensor, ...], inputs: tuple[Tensor, ...], baseline: tuple[Tensor, ...]) -> float:
    parts = zip(mean, inputs, baseline, strict=True)
    return sum(float((m.double() * (x[0].double() - b[0].double())).sum()) for m, x, b in parts)


def _error(attributed: float, explained: float) -> float:
    return abs(attributed - explained) / max(abs(explained), SMALLEST_DIFFERENCE)
