"""Makes explanation documents that are valid, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.xai_worker.exports import Explained
from services.xai_worker.naming import safe_name
from services.xai_worker.result import (
    ChannelExplanation,
    CompletenessGate,
    ExplainedScore,
    Gates,
    Part,
    ResidueExplanation,
    ScalarParity,
    round_significant,
    top_residues,
)
from services.xai_worker.structure import Structure

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
TERMS = {"GO:0005524": "ATP binding", "GO:0016020": "membrane; 100% <b>&\tfat</b>"}


def common(protein: str, term: str, *, converged: bool | None = True) -> dict[str, Any]:
    error = 0.001 if converged else 0.2
    completeness = None
    if converged is not None:
        completeness = CompletenessGate(
            explained=1.5, attributed=1.5 + error, error=error, tolerance=0.01, steps=32, converged=converged
        )
    parity = ScalarParity(recomputed=2.2512, stored=2.25, difference=0.0012, tolerance=0.011)
    return {
        "protein": protein,
        "term": term,
        "term_name": TERMS.get(term, term),
        "aspect": "MF",
        "score": ExplainedScore(logit=2.25, reference=0.75, folds=[0, 1, 2, 3, 4], probability=0.91),
        "gates": Gates(parity=parity, embedding=None, completeness=completeness),
    }


def residues(
    sequence: str,
    values: list[float | None],
    *,
    protein: str = "P1",
    term: str = "GO:0005524",
    model: str = "cnn",
    method: str = "occlusion",
    converged: bool | None = True,
) -> ResidueExplanation:
    return ResidueExplanation(
        **common(protein, term, converged=converged),
        model=model,
        method=method,
        sequence=sequence,
        values=values,
        covered=sum(value is not None for value in values),
        top=top_residues(sequence, values),
    )


def channels(protein: str = "P1", term: str = "GO:0005524", goa: float = -0.5) -> ChannelExplanation:
    values = {("level1:cnn", "self"): 1.0, ("level1:cnn", "other"): -0.25, ("goa:IEA", "ancestors"): goa}
    parts = [
        Part(channel=channel, relation=relation, value=values.get((channel, relation), 0.0))
        for channel in ("level1:cnn", "missing", "goa:IEA")
        for relation in ("self", "ancestors", "descendants", "other")
    ]
    return ChannelExplanation(**common(protein, term), model="stacker", method="stacker_parts", parts=parts)


def explained(
    protein: str = "P1", *, length: int = 143, seed: int = 3, structure: Structure | None = None
) -> Explained:
    """Two terms by two methods each: wide and narrow ranges, negative values, residues that no model saw."""
    rng = np.random.default_rng(seed)
    sequence = "".join(rng.choice(list(LETTERS), length))
    found: list[Any] = []
    for term in TERMS:
        for scale, method in ((1.0, "occlusion"), (1e-7, "integrated_gradients")):
            values: list[float | None] = [round_significant(v) for v in (scale * rng.standard_normal(length)).tolist()]
            values[-3:] = [None, None, 0.0]
            model = "cnn" if method == "occlusion" else "mlp/esm2"
            found.append(residues(sequence, values, protein=protein, term=term, model=model, method=method))
        found.append(channels(protein, term))
    return Explained(protein, safe_name(protein), sequence, found, structure=structure)
