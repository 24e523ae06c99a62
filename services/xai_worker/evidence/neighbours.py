"""Who votes in the KNN correction, with how much, and what their known sites say of this protein.

corrected = (1 - lambda) p + lambda sum_j w_j y_j / sum_j w_j, over the neighbours j that are annotated in
the term's aspect: every neighbour's share of the vote is exact.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from services.xai_worker.evidence.alignment import align, aligned_positions
from services.xai_worker.evidence.base import Context
from services.xai_worker.evidence.game import without_fold
from services.xai_worker.result import Alignment, AnyExplanation, CarriedSite, Neighbour, NeighbourExplanation
from shared.ontology import ASPECTS


class KnnShares:
    """Registry entry `knn_shares`. A protein that was fitted on is compared with the other folds' only."""

    name: ClassVar[str] = "knn_shares"

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term.

        Raises:
            MissingInput: the bundle's KNN reference is not there.
        """
        knn, place = context.bundle.knn_reference(), context.target.place
        if place.fold is not None:
            knn = without_fold(knn, place.fold, context.run.folds)
        positions, cosines = knn.neighbours(context.known.features, np.zeros(1, np.int64))
        ids, sequences = context.bundle.references
        rows = knn.reference.rows[positions[0]]
        alignments = align(context.target.sequence, [sequences[row] for row in rows])
        weights = np.exp((cosines[0].astype(np.float64) - 1.0) / knn.temperature)
        found: list[AnyExplanation] = []
        for term in context.target.terms:
            column = knn.terms.index(term)
            has = knn.reference.labels[positions[0]].toarray()[:, column] > 0
            annotated = knn.reference.annotated[positions[0], ASPECTS.index(context.aspect(term))]
            total = float((weights * annotated).sum())
            shares = weights * (has & annotated) / total if total > 0 else np.zeros(len(weights))
            vote = float(shares.sum()) if total > 0 else float(knn.reference.priors[column])
            own = float(context.probability(term, context.gates[term].parity.stored))
            weight = float(context.bundle.metadata["knn_lambda"])
            neighbours = [
                Neighbour(
                    protein=ids[row],
                    cosine=float(cosines[0, i]),
                    weight=float(weights[i]),
                    has_term=bool(has[i]),
                    share=float(shares[i]),
                    alignment=alignments[i],
                    sites=self._carried(context, ids[row], sequences[row], alignments[i], term),
                )
                for i, row in enumerate(rows.tolist())
            ]
            found.append(
                NeighbourExplanation(
                    **context.common(term, self.name),
                    weight=weight,
                    own_probability=own,
                    vote=vote,
                    corrected=(1 - weight) * own + weight * vote,
                    neighbours=neighbours,
                )
            )
        return found

    @staticmethod
    def _carried(
        context: Context, protein: str, sequence: str, alignment: Alignment | None, term: str
    ) -> list[CarriedSite]:
        """The neighbour's known sites of the term, on the residues that they are aligned with."""
        sites = context.sites.get((protein, term))
        if not sites or alignment is None:
            return []
        places = aligned_positions(alignment)
        return [
            CarriedSite(
                neighbour_position=site,
                neighbour_residue=sequence[site - 1],
                position=places[site],
                residue=context.target.sequence[places[site] - 1],
            )
            for site in sorted(sites)
            if site in places
        ]
