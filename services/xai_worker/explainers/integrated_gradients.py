"""Integrated gradients along a straight line from a neutral input, with a measured completeness error.

Source: Sundararajan et al. 2017, arXiv 1703.01365; the line is followed by `quadrature`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from services.xai_worker.explainers.base import Advance, Attribution, Path, ResiduePath, Subject, residue_path
from services.xai_worker.explainers.quadrature import Quadrature


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
