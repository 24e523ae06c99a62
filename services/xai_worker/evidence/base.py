"""What evidence is: findings about one protein's final scores that no single residue track can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from services.xai_worker.evidence.game import ModalityGame
from services.xai_worker.localisation import Sites
from services.xai_worker.paths import Bundle, folds_of
from services.xai_worker.result import AnyExplanation, ExplainedScore, Gates
from services.xai_worker.stored import StoredRun
from services.xai_worker.targets import Target
from services.xai_worker.whole import FINAL, Known, WholePath
from shared.ontology import ASPECTS


@dataclass
class Context:
    """One protein, the model, and what is asked.

    Attributes:
        threshold: the probability from which a term counts as predicted, for counterfactuals.
        tolerance, max_steps: of integrated gradients.
        paths: aspect -> the path from all inputs to the asked terms of that aspect; parity holds for each.
        gates: term -> the parity of its final score.
        background: train proteins that stand in for what is absent.
        sites: known sites, of neighbours, too.
    """

    run: StoredRun
    bundle: Bundle
    target: Target
    known: Known
    paths: Mapping[str, WholePath]
    gates: Mapping[str, Gates]
    background: Sequence[Known]
    sites: Sites = field(default_factory=dict)
    tolerance: float = 0.01
    max_steps: int = 256
    threshold: float = 0.5

    @cached_property
    def game(self) -> ModalityGame:
        """The scores of every coalition of modalities, computed once for all terms."""
        return ModalityGame(self.paths, self.known, self.background)

    def aspect(self, term: str) -> str:
        """MF, BP or CC."""
        ontology = self.run.ontology
        return ASPECTS[ontology.aspects[ontology.index[term]]]

    def probability(self, term: str, logits: float | np.ndarray) -> np.ndarray:
        """Calibrated probabilities of final logits, before propagation."""
        beta = self.bundle.calibration.beta[self.aspect(term)]
        found: np.ndarray = beta.probabilities(np.asarray(logits, np.float64)).astype(np.float64)
        return found

    def logit(self, term: str) -> float:
        """The final logit, recomputed."""
        return self.gates[term].parity.recomputed

    def common(self, term: str, method: str, *, logit: float | None = None, reference: float | None = None) -> Any:
        """The fields that every explanation has."""
        ontology = self.run.ontology
        return {
            "protein": self.target.protein,
            "term": term,
            "term_name": ontology.names[ontology.index[term]],
            "aspect": self.aspect(term),
            "model": FINAL,
            "method": method,
            "score": ExplainedScore(
                logit=self.logit(term) if logit is None else logit,
                reference=reference,
                folds=folds_of(self.bundle, self.target.place),
                probability=self.target.probabilities[self.target.terms.index(term)],
            ),
            "gates": self.gates[term],
        }


class Evidence(Protocol):
    """One entry of EVIDENCE. Instances hold options only."""

    name: ClassVar[str]

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term that there is something to say about."""
        ...
