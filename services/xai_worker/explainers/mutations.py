"""What substitutions do to the logit: all of them at once by the gradient, or some of them by computing them.

The virtual scan takes the mean gradient g of integrated gradients, and so costs no more than they do:
S[i, a] = (embedding of a - embedding of x_i) . g_i. The exact scan computes F(x with a at i) - F(x) at the
positions where the virtual one promises most, and says how well the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import spearmanr

from services.xai_worker.explainers.base import (
    Advance,
    Attribution,
    FloatArray,
    Path,
    ResiduePath,
    Subject,
    residue_path,
)
from services.xai_worker.explainers.quadrature import Quadrature

SUBSTITUTIONS = "ACDEFGHIKLMNPQRSTVWY"
VIRTUAL_NOTE = "First-order estimate from gradients; the exact scan computes the substitutions."

BATCH_RESIDUES = 4096  # per forward batch of the exact scan


@dataclass(frozen=True, slots=True)
class VirtualMutations:
    """[residues, 20] estimated changes of the logit; 0 at the residue that is there."""

    name: ClassVar[str] = "virtual_mutations"
    subject: ClassVar[Subject] = "mutations"

    quadrature: Quadrature = field(default_factory=Quadrature)

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    def accepts(self, path: Path) -> bool:
        """Any path from residues."""
        return isinstance(path, ResiduePath)

    def work(self, path: Path) -> int:  # noqa: ARG002
        """One unit."""
        return 1

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """One scan per asked term."""
        residues = residue_path(path)
        inputs = residues.inputs().detach()
        letters = residues.embed(SUBSTITUTIONS)[0].detach().double()
        found = []
        for means, score, _, _ in self.quadrature.gradients(
            lambda points: residues.logits(points[0]), (inputs,), (residues.baseline().detach(),), inputs.shape[1]
        ):
            gradient = means[0].double()
            values = (gradient @ letters.T - (gradient * inputs[0].double()).sum(-1, keepdim=True)).cpu().numpy()
            values[~residues.covered] = np.nan
            found.append(Attribution(values, score, None, None, note=VIRTUAL_NOTE))
        advance(1)
        return found


@dataclass(frozen=True, slots=True)
class ExactMutations:
    """[residues, 20] computed changes of the logit, NaN at positions that were not scanned.

    Args:
        positions: how many, by the largest virtual change; 0 scans all.
        batch_residues: residues per forward batch.
        virtual: the scan that chooses them.
    """

    name: ClassVar[str] = "exact_mutations"
    subject: ClassVar[Subject] = "mutations"

    positions: int = 10
    batch_residues: int = BATCH_RESIDUES
    virtual: VirtualMutations = field(default_factory=VirtualMutations)

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    def accepts(self, path: Path) -> bool:
        """Any path from residues."""
        return isinstance(path, ResiduePath)

    def work(self, path: Path) -> int:
        """One unit for each asked term."""
        return int(path.logits(path.inputs()).shape[1])

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """One scan per asked term, each at its own positions."""
        residues = residue_path(path)
        estimates = self.virtual.attribute(path, lambda _: None)
        found = []
        for column, estimate in enumerate(estimates):
            chosen = self._chosen(estimate.values)
            values = np.full_like(estimate.values, np.nan)
            values[chosen] = self._scan(residues, chosen, column)
            one, other = estimate.values[chosen].ravel(), values[chosen].ravel()
            agreement = float(spearmanr(one, other).statistic) if np.ptp(one) and np.ptp(other) else None
            found.append(Attribution(values, estimate.score, None, None, agreement=agreement))
            advance(1)
        return found

    def _chosen(self, virtual: FloatArray) -> list[int]:
        reach = np.nan_to_num(np.abs(virtual).max(axis=1), nan=-1.0)
        order = [int(i) for i in np.argsort(-reach, kind="stable") if reach[i] >= 0]
        return sorted(order[: self.positions] if self.positions else order)

    @torch.inference_mode()
    def _scan(self, path: ResiduePath, positions: list[int], column: int) -> FloatArray:
        """[positions, 20]."""
        inputs, letters = path.inputs(), path.embed(SUBSTITUTIONS)[0]
        whole = path.logits(inputs)[0, column]
        pairs = [(i, a) for i in positions for a in range(len(SUBSTITUTIONS))]
        step = max(1, self.batch_residues // inputs.shape[1])
        changes = []
        for start in range(0, len(pairs), step):
            part = pairs[start : start + step]
            mutants = inputs.repeat(len(part), 1, 1)
            for row, (i, a) in enumerate(part):
                mutants[row, i] = letters[a]
            changes.append(path.logits(mutants)[:, column] - whole)
        return torch.cat(changes).double().cpu().numpy().reshape(len(positions), len(SUBSTITUTIONS))
