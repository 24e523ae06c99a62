"""From what a method computed to the document that is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.xai_worker.explainers import Attribution
from services.xai_worker.explainers.mutations import SUBSTITUTIONS
from services.xai_worker.explainers.stacker_parts import RELATIONS, Relation, parts_of
from services.xai_worker.gates.completeness import completeness_gate
from services.xai_worker.paths import Bundle, StackerPath, folds_of
from services.xai_worker.result import (
    ChannelExplanation,
    EmbeddingParity,
    ExplainedScore,
    Gates,
    Mutation,
    MutationExplanation,
    Part,
    ResidueExplanation,
    ScalarParity,
    TermPart,
    residue_values,
    top_residues,
)
from services.xai_worker.stored import StoredRun
from services.xai_worker.targets import Target
from shared.ontology import ASPECTS

TERMS_SHOWN = 10
MUTATIONS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Checked:
    """A path that passed parity, with the gates of each asked term, in the path's column order."""

    terms: list[str]
    scores: list[ScalarParity]
    embedding: EmbeddingParity | None

    def gates(self, column: int, made: Attribution | None = None) -> Gates:
        """Parity, and completeness where the method has one."""
        completeness = None if made is None else completeness_gate(made.completeness)
        return Gates(parity=self.scores[column], embedding=self.embedding, completeness=completeness)


@dataclass(frozen=True, slots=True)
class Scan:
    """A mutation scan with its whole table [residues, 20]; NaN where nothing was scanned."""

    explanation: MutationExplanation
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the documents of one run."""

    run: StoredRun
    bundle: Bundle

    def common(self, target: Target, term: str, *, model: str, method: str, made: Attribution) -> dict[str, Any]:
        """The fields that every explanation has, but the gates."""
        ontology = self.run.ontology
        return {
            "protein": target.protein,
            "term": term,
            "term_name": ontology.names[ontology.index[term]],
            "aspect": ASPECTS[ontology.aspects[ontology.index[term]]],
            "model": model,
            "method": method,
            "score": ExplainedScore(
                logit=made.score,
                reference=made.reference,
                folds=folds_of(self.bundle, target.place),
                probability=target.probabilities[target.terms.index(term)],
            ),
        }

    def channels(
        self, common: dict[str, Any], gates: Gates, path: StackerPath, made: Attribution
    ) -> ChannelExplanation:
        """What the stacker's channels add, through which terms."""
        layout, term = self.bundle.stacker.layout, common["term"]
        relations = self._relations(path.aspect, term)
        nodes = [layout.terms[i] for i in layout.of_aspect(path.aspect)]
        relation_of = {node: relation for relation in RELATIONS for node in np.asarray(nodes)[relations[relation]]}
        sums = made.values.sum(axis=1)
        strongest = [int(i) for i in np.argsort(-np.abs(sums), kind="stable")[:TERMS_SHOWN] if sums[i]]
        names, index = self.run.ontology.names, self.run.ontology.index
        return ChannelExplanation(
            **common,
            gates=gates,
            parts=[
                Part(channel=p.channel, relation=p.relation, value=p.value)
                for p in parts_of(made.values, layout.channels.kinds, relations)
            ],
            terms=[
                TermPart(
                    term=nodes[i], name=names[index[nodes[i]]], relation=relation_of[nodes[i]], value=float(sums[i])
                )
                for i in strongest
            ],
        )

    def residues(self, common: dict[str, Any], gates: Gates, sequence: str, made: Attribution) -> ResidueExplanation:
        """What each residue adds."""
        values = residue_values(made.values)
        errors = None if made.standard_errors is None else residue_values(made.standard_errors)
        return ResidueExplanation(
            **common,
            gates=gates,
            sequence=sequence,
            values=values,
            covered=sum(value is not None for value in values),
            top=top_residues(sequence, values),
            standard_errors=errors,
            note=made.note,
        )

    def mutations(self, common: dict[str, Any], gates: Gates, sequence: str, made: Attribution) -> Scan:
        """What substitutions do."""
        values = made.values
        flat = [
            (float(values[i, a]), i, a)
            for i in range(len(sequence))
            for a in range(len(SUBSTITUTIONS))
            if not np.isnan(values[i, a]) and SUBSTITUTIONS[a] != sequence[i]
        ]
        flat.sort(key=lambda item: (item[0], item[1], item[2]))
        explanation = MutationExplanation(
            **common,
            gates=gates,
            sequence=sequence,
            alphabet=SUBSTITUTIONS,
            positions=[i + 1 for i in range(len(sequence)) if not np.isnan(values[i]).all()],
            lowering=[_mutation(sequence, item) for item in flat[:MUTATIONS_SHOWN] if item[0] < 0],
            raising=[_mutation(sequence, item) for item in flat[::-1][:MUTATIONS_SHOWN] if item[0] > 0],
            agreement=made.agreement,
        )
        return Scan(explanation, values)

    def related(self, terms: Sequence[str]) -> set[tuple[str, str]]:
        """Pairs of terms of which one is above the other."""
        ontology = self.run.ontology
        above = {term: set(ontology.ancestors(ontology.index[term]).tolist()) for term in terms}
        return {
            (one, other)
            for one in terms
            for other in terms
            if ontology.index[one] in above[other] or ontology.index[other] in above[one]
        }

    def _relations(self, aspect: str, term: str) -> dict[Relation, npt.NDArray[np.bool_]]:
        """Where each stacker term of the aspect stands relative to the explained one."""
        layout, ontology = self.bundle.stacker.layout, self.run.ontology
        nodes = [ontology.index[layout.terms[i]] for i in layout.of_aspect(aspect)]
        own = ontology.index[term]
        above = set(ontology.ancestors(own).tolist())
        here = np.array([node == own for node in nodes], bool)
        ancestors = np.array([node in above for node in nodes], bool) & ~here
        descendants = np.array([own in ontology.ancestors(node) for node in nodes], bool) & ~here
        return {
            "self": here,
            "ancestors": ancestors,
            "descendants": descendants,
            "other": ~(here | ancestors | descendants),
        }


def _mutation(sequence: str, item: tuple[float, int, int]) -> Mutation:
    value, position, letter = item
    return Mutation(position=position + 1, residue=sequence[position], substitution=SUBSTITUTIONS[letter], value=value)
