"""Which descendant gave a term its final probability, and how the term hangs in the graph.

After calibration, a parent's probability becomes at least its children's. Where the term's own evidence
is weaker than a descendant's, the explanation of the final number is that descendant's. Where the run
blends that with the ancestors' lowest probability, that ancestor is named too.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from services.xai_worker.evidence.base import Context
from services.xai_worker.result import AnyExplanation, PathExplanation, PathNode, Violation
from shared.models.scoring import own_scores, provenance
from shared.models.trained import descendant_share
from shared.ontology import Ontology, propagate_blend


class GoPath:
    """Registry entry `go_path`. Of the stored scores; terms outside the stacker's have the homology vote's."""

    name: ClassVar[str] = "go_path"

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term."""
        run, ontology = context.run, context.run.ontology
        place = context.target.place
        logits = np.asarray(run.scores(place.part, "gcn")[place.row : place.row + 1], np.float32)
        calibration = context.bundle.calibration.to_json()["calibration"]
        rare = context.bundle.rare_scores(run.features(place, hits=True)) if place.fold is None else None
        sparse_own = own_scores(logits, list(run.stacker_terms), calibration, ontology, rare)
        share = descendant_share(context.bundle.metadata)
        final = propagate_blend(sparse_own, ontology, share).toarray()[0]
        own = sparse_own.toarray()[0]
        return [self._document(context, term, own, final, share) for term in context.target.terms]

    def _document(
        self,
        context: Context,
        term: str,
        own: npt.NDArray[np.floating],
        final: npt.NDArray[np.floating],
        share: float,
    ) -> PathExplanation:
        ontology = context.run.ontology
        path = provenance(own, ontology, term)
        kept = sorted({*ontology.ancestors(ontology.index[term]).tolist(), *(ontology.index[name] for name in path)})
        edges = [(child, parent) for child in kept for parent in ontology.parents[child] if parent in kept]
        return PathExplanation(
            **context.common(term, self.name),
            path=list(path),
            descendant_share=share,
            lowest=None if share == 1 else lowest_ancestor(own, ontology, term),
            nodes=[
                PathNode(term=ontology.terms[i], name=ontology.names[i], own=float(own[i]), probability=float(final[i]))
                for i in kept
            ],
            edges=[(ontology.terms[child], ontology.terms[parent]) for child, parent in edges],
            violations=[
                Violation(child=ontology.terms[c], parent=ontology.terms[p], gap=float(own[c] - own[p]))
                for c, p in edges
                if own[c] > own[p]
            ],
        )


def lowest_ancestor(own: npt.NDArray[np.floating], ontology: Ontology, term: str) -> str | None:
    """Among a term and its ancestors, the one of the lowest own score [len(ontology)]; None where none has a score.

    Among equals the nearest to the term counts, that is, the one of the highest index.
    """
    scored = [i for i in ontology.ancestors(ontology.index[term]).tolist() if own[i] > 0]
    return ontology.terms[min(scored, key=lambda i: (own[i], -i))] if scored else None
