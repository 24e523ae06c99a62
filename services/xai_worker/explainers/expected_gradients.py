"""Expected gradients: integrated gradients from real sequences instead of one neutral point, with their Monte Carlo error.

No single baseline is neutral for a protein; the mean over many of them asks what these residues add
compared with other proteins of the same length.

Source: Erion et al. 2021, doi:10.1038/s42256-021-00343-w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from services.xai_worker.explainers.base import Advance, Attribution, Path, ResiduePath, Subject, residue_path
from services.xai_worker.explainers.quadrature import mean_gradients, measured


@dataclass(frozen=True, slots=True)
class ExpectedGradients:
    """The mean of integrated gradients over a background, and its standard error per residue.

    Args:
        background: sequences that are cut, or repeated, to the protein's length; without any, the protein's
            own residues in random orders, as is usual where no background is at hand.
        draws: how many, if there are that many.
        steps: quadrature nodes for each.
        seed: of the random orders.
        tolerance: accepted completeness error.
        batch_units: residues per forward batch.
    """

    name: ClassVar[str] = "expected_gradients"
    subject: ClassVar[Subject] = "residues"

    background: tuple[str, ...] = ()
    draws: int = 16
    steps: int = 8
    seed: int = 31
    tolerance: float = 0.01
    batch_units: int = 1024

    @property
    def label(self) -> str:
        """The name."""
        return self.name

    def accepts(self, path: Path) -> bool:
        """Any path from residues."""
        return isinstance(path, ResiduePath)

    def work(self, path: Path) -> int:  # noqa: ARG002
        """One unit per background sequence."""
        return self.draws

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """All asked terms at once; `reference` is the mean score of the background."""
        residues = residue_path(path)
        inputs = residues.inputs().detach()
        with torch.inference_mode():
            score = residues.logits(inputs)[0].double().cpu().numpy()
        columns, batch = list(range(len(score))), max(1, self.batch_units // inputs.shape[1])
        values, references = [], []
        for baseline in self._baselines(residues, inputs):
            means = mean_gradients(
                lambda points: residues.logits(points[0]),
                (inputs,),
                (baseline,),
                columns,
                steps=self.steps,
                batch=batch,
            )
            moved = (inputs - baseline)[0].double()
            values.append(torch.stack([(mean[0].double() * moved).sum(-1) for mean in means]).cpu().numpy())
            with torch.inference_mode():
                references.append(residues.logits(baseline)[0].double().cpu().numpy())
            advance(1)
        each = np.where(residues.covered, np.stack(values), np.nan)  # [draw, term, residue]
        reference, whole = np.mean(references, axis=0), each.mean(axis=0)
        errors = each.std(axis=0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.full_like(whole, np.nan)
        found = []
        for term in columns:
            made = measured(
                whole[term], float(score[term]), float(reference[term]), steps=self.steps, tolerance=self.tolerance
            )
            found.append(Attribution(made.values, made.score, made.reference, made.completeness, errors[term]))
        return found

    def _baselines(self, path: ResiduePath, inputs: Tensor) -> list[Tensor]:
        length = inputs.shape[1]
        if self.background:
            # Joined end to end, so that short proteins serve for long ones, too.
            joined = "".join(self.background)
            joined *= -(-length * self.draws // len(joined))
            return [path.embed(joined[draw * length : (draw + 1) * length]).detach() for draw in range(self.draws)]
        rng = np.random.default_rng(self.seed)
        return [inputs[:, rng.permutation(length)] for _ in range(self.draws)]
