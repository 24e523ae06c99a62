"""One account from inputs to the final logit: residues, words, taxon, annotations and votes add up, and the rest is shown.

Integrated gradients along one line on which every input leaves its neutral state together: the mean
amino acid, no text, an unknown taxon, no annotation, votes that say the prior.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from services.xai_worker.evidence.base import Context
from services.xai_worker.explainers.base import Attribution, FloatArray
from services.xai_worker.explainers.quadrature import Quadrature, measured
from services.xai_worker.gates.completeness import completeness_gate
from services.xai_worker.result import AccountExplanation, AccountPart, AnyExplanation, Word, residue_values
from services.xai_worker.whole import GOA, RESIDUES, WORDS, WholePath

WORDS_SHOWN = 20
FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Account:
    """Registry entry `account`."""

    name: ClassVar[str] = "account"

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term."""
        quadrature = Quadrature(tolerance=context.tolerance, max_steps=context.max_steps)
        found: list[AnyExplanation] = []
        for path in context.paths.values():
            found += [self._document(context, path, item) for item in attribute_blocks(path, quadrature)]
        return found

    def _document(self, context: Context, path: WholePath, item: Parts) -> AccountExplanation:
        values, made = item.values, item.sums
        parts = [AccountPart(source=name, value=value) for name, value in totals(values, context).items()]
        words, others, left_out = self._words(context, values.get(WORDS))
        read = [v.sum(axis=-1) for name, v in values.items() if name.startswith(RESIDUES)]
        residues = np.sum(read, axis=0) if read else np.full(len(path.sequence), np.nan)
        gates = context.gates[item.term].model_copy(update={"completeness": completeness_gate(made.completeness)})
        common = context.common(item.term, self.name, logit=made.score, reference=made.reference)
        return AccountExplanation(
            **{**common, "gates": gates},
            sequence=path.sequence,
            parts=parts,
            remainder=made.score - (made.reference or 0.0) - sum(part.value for part in parts),
            residues=residue_values(np.where(path.covered, residues, np.nan)),
            words=words,
            words_left_out=left_out,
            other_words=others,
        )

    def _words(self, context: Context, values: FloatArray | None) -> tuple[list[Word], float, int]:
        """The words that count most, the sum of the rest, and how many those are."""
        if values is None or not values.any():
            return [], 0.0, 0
        weights = np.asarray(context.known.features.dense["text"][0], np.float64)
        order = [int(i) for i in np.argsort(-np.abs(values), kind="stable") if abs(values[i]) > FLOOR]
        vocabulary = context.run.vocabulary
        shown = [
            Word(word=vocabulary[i], weight=float(weights[i]), value=float(values[i])) for i in order[:WORDS_SHOWN]
        ]
        return shown, float(values.sum() - values[order[:WORDS_SHOWN]].sum()), max(0, len(order) - WORDS_SHOWN)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every input adds to one term: by source, in the shape of the source's input; `sums` has one value per source."""

    term: str
    values: dict[str, FloatArray]
    sums: Attribution


def attribute_blocks(path: WholePath, quadrature: Quadrature) -> Iterator[Parts]:
    """Joint integrated gradients of every asked term."""
    inputs, baselines = path.blocks(), path.baselines()
    names = list(inputs)

    def function(points: tuple[Tensor, ...]) -> Tensor:
        return path.forward(dict(zip(names, points, strict=True)))

    x, b = (tuple(blocks[name].detach() for name in names) for blocks in (inputs, baselines))
    columns = quadrature.gradients(function, x, b, len(path.sequence))
    for term, (means, score, reference, steps) in zip(path.terms, columns, strict=True):
        values = {
            name: (mean.double() * (one[0].double() - other[0].double())).cpu().numpy()
            for name, mean, one, other in zip(names, means, x, b, strict=True)
        }
        flat = np.array([value.sum() for value in values.values()])
        yield Parts(term, values, measured(flat, score, reference, steps=steps, tolerance=quadrature.tolerance))


def totals(values: Mapping[str, FloatArray], context: Context) -> dict[str, float]:
    """Source -> what it adds; annotations by kind."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if name == GOA:
            kinds = context.bundle.stacker.layout.channels.goa
            found.update({f"goa:{kind}": float(value[:, i].sum()) for i, kind in enumerate(kinds)})
        else:
            found[name] = float(value.sum())
    return found
