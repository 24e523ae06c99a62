"""Logistic regression of many terms at once, with one bound on the curvature for all of them.

The Hessian of the mean log-loss is X' diag(p (1 - p)) X / n, never more than X'X / 4n (Boehning and
Lindsay 1988). That bound is the same for every term and every iteration, so it is diagonalised once and
a step costs two matrix products for all terms, where Newton's method inverts a matrix per term.
Nesterov's momentum with restarts (O'Donoghue and Candes 2015) makes up for the bound being loose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.saved import mapped_array
from services.train.models.targets import Entries, learnable_terms, prior_logits
from shared.config.level1 import LogregConfig
from shared.errors import MissingInput
from shared.models.feature_space import FeatureSpace
from shared.models.features import MODALITIES, FloatArray, IntArray
from shared.models.logreg import Logreg
from shared.nn.transforms import row_blocks

TERMS_PER_BLOCK = 256
ROWS_PER_BLOCK = 8192  # 8192 x 256 float32 are 8 MB: what a step holds, whatever the number of rows
CURVATURE = np.float32(0.25)  # p (1 - p) is at most this
RELATIVE_RANK = 1e-7  # of the largest variance; smaller ones are rounding of float32


class LogregFitter:
    """Fits every learnable term on the rows annotated in its aspect; the other terms keep their prior.

    Class weights are not used: a weight per term would only change the term's own penalty.
    """

    name: ClassVar[str] = "logreg"
    settings: ClassVar[str] = "logreg"
    sections: ClassVar[tuple[str, ...]] = ("logreg",)
    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    votes: ClassVar[bool] = False
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> Logreg:
        """Fit on `rows`.

        Raises:
            MissingInput: no modality is present.
        """
        space = fit_space(data, rows, context, model=self.name, modalities=self.modalities)
        options = context.config.logreg
        weights = np.zeros((space.width, len(data.terms)), np.float32)
        entries = Entries.of(data, self.targets)
        bias = prior_logits(data, rows, entries)
        learnable = learnable_terms(data, rows, context.config.min_positives, entries)
        with context.progress("terms", int(learnable.sum()), "term") as bar:
            for aspect in np.unique(data.aspects):
                columns = np.flatnonzero(learnable & (data.aspects == aspect))
                known = rows[data.annotated[rows, aspect]]
                if not len(columns):
                    continue
                components = context.work / "components.npy"
                basis = PrincipalBasis.fit(_Blocks(space, data, known), options.components, components)
                for group, asked in alike(entries, columns, known):
                    part = basis if asked.all() else basis.among(asked)
                    # The penalty stands beside a mean loss: a term that is asked of fewer proteins is held as firmly.
                    penalty = options.l2 * len(known) / int(asked.sum())
                    for _, block in row_blocks(group, TERMS_PER_BLOCK):
                        targets = data.labels[known[asked]][:, block]
                        weights[:, block], bias[block] = part.solve(targets, options, penalty, bar.show)
                        bar.advance(len(block))
                components.unlink(missing_ok=True)
        return Logreg(space, weights, bias, data.terms, entries.edges)


class ConditionalLogregFitter(LogregFitter):
    """The same on conditional targets: each term only among the proteins that have one of its parents."""

    name: ClassVar[str] = "logreg_conditional"
    targets: ClassVar[Targets] = "conditional"


class TextFitter(LogregFitter):
    """The same on the text alone, which the vectors of the sequence outnumber where both are read."""

    name: ClassVar[str] = "text"
    modalities: ClassVar[tuple[str, ...]] = ("text",)


def alike(entries: Entries, columns: IntArray, rows: IntArray) -> Iterator[tuple[IntArray, npt.NDArray[np.bool_]]]:
    """Columns that the same proteins are asked about (terms with the same parents), and which of `rows` those are."""
    groups: dict[tuple[int, ...], list[int]] = {}
    parents: dict[int, list[int]] = {}
    for child, parent in entries.edges or ():
        parents.setdefault(child, []).append(parent)
    for column in columns.tolist():
        groups.setdefault(tuple(sorted(parents.get(column, []))), []).append(column)
    for group in groups.values():
        chosen = np.asarray(group, np.int64)
        yield chosen, entries.known(rows, chosen[:1])[:, 0]


def fit_space(
    data: TrainingData,
    rows: IntArray,
    context: FitContext,
    *,
    model: str,
    modalities: tuple[str, ...] = MODALITIES,
) -> FeatureSpace:
    """The feature specification of a model that reads vectors, fitted on `rows`.

    Raises:
        MissingInput: no modality is present.
    """
    transform = context.transform
    space = FeatureSpace.fit(
        data.features,
        rows,
        version=transform.version,
        normalize=transform.normalize,
        min_taxon_proteins=context.config.min_taxon_proteins,
        modalities=modalities,
    )
    if not space.width:
        raise MissingInput(
            f"{model} has no modality to learn from",
            where=" or ".join({"text": "data.text"}.get(name, f"embed.{name}") for name in modalities),
            remedy="Set it, or leave the model out of level1.models",
        )
    return space


class Rows(Protocol):
    """The inputs of a fit, [row, column], given out in blocks."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Consecutive rows with their place; may be asked for again."""
        ...


@dataclass(frozen=True, slots=True)
class _Held:
    matrix: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        for place, _ in row_blocks(np.arange(len(self.matrix))):
            yield place, self.matrix[place]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A feature space's view of some proteins, made anew for each pass."""

    space: FeatureSpace
    data: TrainingData
    rows: IntArray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.space.width

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        for place, block in row_blocks(self.rows):
            yield place, self.space.matrix(self.data.features, block)


def _few_rows(rows: Rows, centre: FloatArray, components: int) -> tuple[npt.NDArray[np.float64], FloatArray]:
    """Variances, ascending, and directions [column, component] of fewer rows than columns."""
    centred = np.empty(rows.shape, np.float32)
    for place, block in rows.blocks():
        centred[place] = block - centre
    count = len(centred)
    inner = (centred @ centred.T).astype(np.float64) / count
    variance, weights = linalg.eigh(inner, subset_by_index=(max(0, count - components), count - 1), overwrite_a=True)
    # Centring takes one direction away; what rounding leaves of it is no direction.
    kept = variance > variance[-1] * RELATIVE_RANK
    variance, weights = variance[kept], weights[:, kept]
    return variance, (centred.T @ (weights / np.sqrt(count * variance)).astype(np.float32)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PrincipalBasis:
    """Centred inputs in the basis in which their covariance is diagonal.

    In it the curvature bound is diagonal too, so a bounded step is a division. Centring makes the bias
    independent of the weights. The L2 penalty is the same in every orthonormal basis.
    """

    inputs: FloatArray  # [row, component], in memory or mapped
    variance: FloatArray  # [component, 1]
    directions: FloatArray  # [column, component]
    mean: FloatArray  # [column]

    @classmethod
    def of(cls, matrix: FloatArray, components: int) -> Self:
        """`fit` on a matrix [row, column] in memory."""
        return cls.fit(_Held(matrix), components)

    @classmethod
    def fit(cls, rows: Rows, components: int, path: Path | None = None) -> Self:
        """Diagonalise; keeps the `components` directions of the largest variance, all where there are not more.

        The rows are read block by block, and their components are kept in a file at `path`, so that only a block of
        them is ever held; None keeps them in memory. Fewer rows than columns span no more directions than there are
        rows: those are found from the rows' inner products.
        """
        count, width = rows.shape
        mean = np.zeros(width)
        for _, block in rows.blocks():
            mean += block.sum(0, dtype=np.float64) / count
        centre = mean.astype(np.float32)
        if count < width:
            variance, directions = _few_rows(rows, centre, components)
        else:
            covariance = np.zeros((width, width))
            for _, block in rows.blocks():
                centred = block - centre
                covariance += centred.T @ centred
            covariance /= count
            variance, directions = linalg.eigh(
                covariance, subset_by_index=(max(0, width - components), width - 1), overwrite_a=True
            )
        narrow = directions.astype(np.float32)
        shape = (count, narrow.shape[1])
        inputs = np.empty(shape, np.float32) if path is None else mapped_array(path, shape, np.float32)
        for place, block in rows.blocks():
            inputs[place] = (block - centre) @ narrow
        return cls(inputs, np.maximum(variance, 0.0).astype(np.float32)[:, None], narrow, centre)

    def among(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """The basis of some of the rows, for the same columns: `chosen` is [row]."""
        own = type(self).of(self.inputs[chosen], len(self.variance))
        return type(self)(
            own.inputs, own.variance, self.directions @ own.directions, self.mean + self.directions @ own.mean
        )

    def solve(
        self,
        targets: FloatArray | sparse.csr_array,
        options: LogregConfig,
        l2: float | None = None,
        after_step: Callable[[], None] = lambda: None,
    ) -> tuple[FloatArray, FloatArray]:
        """Minimise mean log-loss + l2 / 2 * |weights|^2 for each column of `targets` [row, term]; `l2` overrides options'.

        A term is finished when its bounded step would change the logits by less than `tolerance`
        (root mean square over the rows).

        Returns:
            Weights [column, term] and bias [term] for uncentred inputs.
        """
        count = targets.shape[1]
        weights, bias = np.zeros((len(self.variance), count), np.float32), np.zeros(count, np.float32)
        active = np.arange(count)
        state = _Descent.start(sparse.csr_array(targets), len(self.variance))
        for _ in range(options.iterations):
            change = state.step(self.inputs, self.variance, np.float32(options.l2 if l2 is None else l2))
            after_step()
            finished = change < options.tolerance
            # Leaving the finished columns out costs a copy, so it waits until a quarter of them is done.
            if finished.all() or finished.mean() > 0.25:
                weights[:, active[finished]], bias[active[finished]] = state.weights[:, finished], state.bias[finished]
                active, state = active[~finished], state.keep(~finished)
            if not len(active):
                break
        weights[:, active], bias[active] = state.weights, state.bias
        outer = self.directions @ weights
        return outer, bias - self.mean @ outer


@dataclass(slots=True)
class _Descent:
    """Accelerated descent of several terms at once; `ahead_*` is where the next gradient is taken."""

    targets: sparse.csr_array  # 0/1 [row, term], only ones stored
    weights: FloatArray  # [component, term]
    bias: FloatArray
    ahead_weights: FloatArray
    ahead_bias: FloatArray
    pace: FloatArray  # [term], Nesterov's t

    @classmethod
    def start(cls, targets: sparse.csr_array, components: int) -> Self:
        share = np.asarray(targets.sum(axis=0, dtype=np.float64)).ravel() / targets.shape[0]
        bias = np.log(share / (1.0 - share)).astype(np.float32)
        weights = np.zeros((components, targets.shape[1]), np.float32)
        return cls(targets, weights, bias, weights, bias, np.ones(len(bias), np.float32))

    def step(self, inputs: FloatArray, variance: FloatArray, l2: np.float32) -> FloatArray:
        """One step of every term; returns by how much its logits changed, root mean square over rows [term]."""
        slope, error = self._means(inputs)
        gradient: FloatArray = slope + l2 * self.ahead_weights
        weights_change: FloatArray = gradient / (CURVATURE * variance + l2)
        bias_change: FloatArray = error / CURVATURE
        weights, bias = self.ahead_weights - weights_change, self.ahead_bias - bias_change
        uphill = (gradient * (weights - self.weights)).sum(0) + CURVATURE * bias_change * (bias - self.bias) > 0
        pace = (1.0 + np.sqrt(1.0 + 4.0 * self.pace * self.pace)) / 2.0
        momentum = np.where(uphill, 0.0, (self.pace - 1.0) / pace).astype(np.float32)
        self.ahead_weights, self.ahead_bias = (
            weights + momentum * (weights - self.weights),
            bias + momentum * (bias - self.bias),
        )
        self.weights, self.bias = weights, bias
        self.pace = np.where(uphill, 1.0, pace).astype(np.float32)
        change: FloatArray = np.sqrt((variance * weights_change * weights_change).sum(0) + bias_change * bias_change)
        return change

    def _means(self, inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Over rows, block by block: inputs times residuals [component, term], and residuals [term]."""
        slope, error = np.zeros_like(self.ahead_weights), np.zeros_like(self.ahead_bias)
        for start in range(0, len(inputs), ROWS_PER_BLOCK):
            block = inputs[start : start + ROWS_PER_BLOCK]
            residual = sigmoid_in_place(block @ self.ahead_weights + self.ahead_bias)
            pointer = self.targets.indptr[start : start + len(block) + 1]
            row = np.repeat(np.arange(len(block)), np.diff(pointer))
            residual[row, self.targets.indices[pointer[0] : pointer[-1]]] -= np.float32(1.0)
            slope += block.T @ residual
            error += residual.sum(0)
        slope /= np.float32(len(inputs))
        error /= np.float32(len(inputs))
        return slope, error

    def keep(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """The same descent with some of the terms."""
        return type(self)(
            self.targets[:, chosen],
            np.ascontiguousarray(self.weights[:, chosen]),
            self.bias[chosen],
            np.ascontiguousarray(self.ahead_weights[:, chosen]),
            self.ahead_bias[chosen],
            self.pace[chosen],
        )


def sigmoid_in_place(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-values)), written over `values`."""
    np.clip(values, -60.0, 60.0, out=values)
    np.negative(values, out=values)
    np.exp(values, out=values)
    values += 1.0
    np.reciprocal(values, out=values)
    return values
