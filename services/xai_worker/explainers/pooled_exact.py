"""Each position's share of the pooled vector, exactly: the fast tier, without a pass back through the encoder.

z is the mean of the residues' states, so that F(z) - F(z') splits exactly into one part per position,
phi_i = (h_i - z') / N . mean gradient of F on the line from z' to z.

A state already holds what its neighbours are, and so a position's share is no evidence that the residue
at this position matters. In our measurements it finds planted motifs far worse than occlusion does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from services.xai_worker.explainers.base import Advance, Attribution, Path, StatePath, Subject
from services.xai_worker.explainers.quadrature import Quadrature, measured

NOTE = "Position contribution (contextualised): what the encoder says at this position, not evidence for a site."


@dataclass(frozen=True, slots=True)
class PooledExact:
    """Attributions of positions that sum to F(z) - F(z'), z' the mean of the train proteins."""

    name: ClassVar[str] = "pooled_exact"
    subject: ClassVar[Subject] = "residues"

    quadrature: Quadrature = field(default_factory=Quadrature)

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    def accepts(self, path: Path) -> bool:
        """Paths whose score depends on the mean of residue states alone."""
        return isinstance(path, StatePath)

    def work(self, path: Path) -> int:  # noqa: ARG002
        """One unit."""
        return 1

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """All asked terms at once."""
        if not isinstance(path, StatePath):
            raise TypeError(f"{path.model} does not pool residue states")
        states, reference = path.states().detach(), path.state_reference().detach().clone()
        pooled = states.mean(0)
        found = []
        for means, score, neutral, steps in self.quadrature.gradients(
            lambda points: path.head(points[0]), (pooled[None],), (reference[None],), 1
        ):
            with torch.no_grad():
                values = (states.double() - reference.double()) @ means[0].double() / len(states)
            made = measured(values.cpu().numpy(), score, neutral, steps=steps, tolerance=self.quadrature.tolerance)
            found.append(Attribution(made.values, made.score, made.reference, made.completeness, note=NOTE))
        advance(1)
        return found
