"""Occlusion: how much the logit falls when a residue is hidden behind the model's own mask token.

phi_i = F(x) - F(x with i masked). It needs no gradient and ranks known sites best among the methods
compared, but its values sum to nothing in particular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from services.xai_worker.explainers.base import (
    Advance,
    Attribution,
    FloatArray,
    Path,
    ResiduePath,
    Subject,
    residue_path,
)

BATCH_RESIDUES = 16_384


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Masks `window` residues centred on each position (fewer at the ends of the sequence).

    Args:
        window: residues hidden at once; odd.
        batch_residues: residues per forward batch; bounds memory and is fixed, because batching may
            change the last bits of a sum.
    """

    name: ClassVar[str] = "occlusion"
    subject: ClassVar[Subject] = "residues"

    window: int = 1
    batch_residues: int = BATCH_RESIDUES

    @property
    def label(self) -> str:
        """`occlusion`, or `occlusion_5` for a window of five."""
        return self.name if self.window == 1 else f"{self.name}_{self.window}"

    def accepts(self, path: Path) -> bool:
        """Any path from residues."""
        return isinstance(path, ResiduePath)

    def work(self, path: Path) -> int:
        """One forward per residue that the model sees."""
        return int(residue_path(path).covered.sum())

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """One forward per residue serves every asked term."""
        residues = residue_path(path)
        with torch.inference_mode():
            whole = residues.logits(residues.inputs())[0].double().cpu().numpy()
        drops = self._drops(residues, whole, advance)
        return [Attribution(drops[:, term], float(whole[term]), None, None) for term in range(len(whole))]

    def _drops(self, path: ResiduePath, whole: FloatArray, advance: Advance) -> FloatArray:
        """[residues, asked terms]; NaN where a residue is not covered."""
        length, half = len(path.covered), self.window // 2
        drops = np.full((length, len(whole)), np.nan)
        positions = np.flatnonzero(path.covered)
        step = max(1, self.batch_residues // max(1, length))
        for start in range(0, len(positions), step):
            chosen = positions[start : start + step]
            groups = [
                [i for i in range(max(0, p - half), min(length, p + half + 1)) if path.covered[i]]
                for p in chosen.tolist()
            ]
            with torch.inference_mode():
                masked = path.masked_logits(groups).double().cpu().numpy()
            drops[chosen] = whole - masked
            advance(len(chosen))
        return drops
