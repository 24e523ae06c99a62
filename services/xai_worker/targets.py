"""From a request to proteins and terms that this run can explain; what it cannot is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.xai_worker.localisation import Sites
from services.xai_worker.request import DEFAULT_PROTEINS, DEFAULT_TERMS, ExplainRequest
from services.xai_worker.stored import Place, StoredRun
from shared.errors import MissingInput
from shared.models.calibration import Calibration
from shared.ontology import ASPECTS

SPECIFIC_PRIOR = 0.1  # a term that more of the annotated train proteins have says little of one protein
BLOCK_ROWS = 1024
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Target:
    """One protein and the terms to explain for it; `probabilities` is the run's calibrated score of each."""

    protein: str
    place: Place
    sequence: str
    terms: tuple[str, ...]
    probabilities: tuple[float, ...]

    def of_aspect(self, run: StoredRun) -> dict[str, list[str]]:
        """Aspect -> the asked terms of it, aspects in their fixed order."""
        ontology = run.ontology
        aspects = {term: ASPECTS[ontology.aspects[ontology.index[term]]] for term in self.terms}
        return {name: found for name in ASPECTS if (found := [t for t in self.terms if aspects[t] == name])}


class Chooser:
    """Chooses targets by the stacker's calibrated scores."""

    def __init__(self, run: StoredRun, calibration: Calibration) -> None:
        self.run, self.calibration = run, calibration
        self.terms = list(run.stacker_terms)
        ontology = run.ontology
        self.aspects = np.array([ASPECTS[ontology.aspects[ontology.index[term]]] for term in self.terms], np.str_)

    def targets(self, request: ExplainRequest, sites: Sites | None = None) -> list[Target]:
        """The request's proteins with their terms, in the order named, or best first.

        Raises:
            MissingInput: a protein or term that the run does not have.
        """
        terms = tuple(dict.fromkeys(self.known_term(term) for term in request.terms))
        proteins = tuple(dict.fromkeys(self.known_protein(protein) for protein in request.proteins))
        pairs = self._pairs(request, proteins)
        if sites is not None and not proteins and not terms and not pairs:
            wanted = self._with_sites(sites)
        else:
            chosen = proteins or tuple(pairs) or tuple(self.best_proteins(terms, request.limit or DEFAULT_PROTEINS))
            wanted = [(protein, self._asked(protein, terms, pairs, request.top_k)) for protein in chosen]
        return [self._target(protein, asked) for protein, asked in wanted[: request.limit]]

    def known_protein(self, protein: str) -> str:
        """The protein itself, if the run has it.

        Raises:
            MissingInput: it does not; the message names similar ids.
        """
        if protein in self.run.places:
            return protein
        similar = difflib.get_close_matches(protein, self.run.places, n=3, cutoff=0.6)
        counts = ", ".join(f"{len(table)} {part}" for part, table in self.run.proteins.items())
        raise MissingInput(
            f"no protein {protein!r} among the run's {counts} proteins",
            where="--protein",
            remedy=f"Similar ids: {', '.join(similar)}" if similar else f"For example {next(iter(self.run.places))}",
        )

    def known_term(self, term: str) -> str:
        """The canonical id of a term that the model scores.

        Raises:
            MissingInput: no such term, or the model does not have it; the message names terms nearby.
        """
        ontology = self.run.ontology
        canonical = ontology.resolve(term)
        if canonical is None:
            gone = "is obsolete" if term in ontology.obsolete else "is not in the ontology"
            similar = difflib.get_close_matches(term, self.terms, n=3, cutoff=0.6)
            raise MissingInput(
                f"{term!r} {gone} of the run ({ontology.version})",
                where="--term",
                remedy=f"Similar terms: {', '.join(similar)}" if similar else f"For example {self.terms[0]}",
            )
        if canonical in self.run.stacker_terms:
            return canonical
        index = ontology.index[canonical]
        above = [ontology.terms[i] for i in ontology.ancestors(index).tolist()[::-1] if i != index]
        near = [f"{name} {ontology.names[ontology.index[name]]}" for name in above if name in self.run.stacker_terms]
        raise MissingInput(
            f"{canonical} {ontology.names[index]} is not among the model's {len(self.terms)} terms",
            where="--term",
            remedy="Too few proteins have it to be fitted"
            + (f"; explain a more general term: {', '.join(near[:3])}" if near else ""),
        )

    def best_terms(self, protein: str, count: int = DEFAULT_TERMS) -> tuple[str, ...]:
        """The protein's best-scored specific terms, none of which is above or below another.

        Related terms share their score, and their explanation, by the true-path rule.
        """
        scores = self._probabilities(self.run.places[protein])
        chosen: list[str] = []
        for column in np.argsort(-scores, kind="stable").tolist():
            if self.specific[column] and not any(self._related(self.terms[column], term) for term in chosen):
                chosen.append(self.terms[column])
            if len(chosen) == count:
                break
        if not chosen:
            raise MissingInput("the model has no term but roots", where=self.run.ontology.version)
        return tuple(chosen)

    def _pairs(self, request: ExplainRequest, proteins: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Protein -> the terms that were asked of it alone."""
        found: dict[str, list[str]] = {}
        for protein, term in request.pairs:
            if proteins and protein not in proteins:
                raise MissingInput(
                    f"a term is asked of {protein!r}, which is not among the asked proteins",
                    where="--terms",
                    remedy="Add it to --proteins, or leave --proteins out",
                )
            found.setdefault(self.known_protein(protein), []).append(self.known_term(term))
        return {protein: tuple(dict.fromkeys(terms)) for protein, terms in found.items()}

    def _asked(
        self, protein: str, terms: tuple[str, ...], pairs: dict[str, tuple[str, ...]], top_k: int | None
    ) -> tuple[str, ...]:
        own = tuple(dict.fromkeys((*terms, *pairs.get(protein, ()))))
        return own or self.best_terms(protein, top_k or DEFAULT_TERMS)

    def best_proteins(self, terms: Sequence[str], count: int) -> list[str]:
        """Test proteins by their best score of a specific term, or of the given terms."""
        wanted = self.specific if not terms else np.isin(self.terms, list(terms))
        best = np.concatenate([block[:, wanted].max(axis=1) for block in self._test_blocks()] or [np.zeros(0)])
        ids = self.run.proteins["test"]["id"]
        return [str(ids.iloc[row]) for row in np.argsort(-best, kind="stable")[:count].tolist()]

    @property
    def specific(self) -> npt.NDArray[np.bool_]:
        """[stacker term] terms that at most a tenth of the annotated train proteins have; else all but roots."""
        roots = set(self.run.ontology.roots.values())
        inner = np.array([term not in roots for term in self.terms], bool)
        rare = np.array([self.run.priors.get(term, 0.0) <= SPECIFIC_PRIOR for term in self.terms], bool)
        return inner & rare if (inner & rare).any() else inner

    def _with_sites(self, sites: Sites) -> list[tuple[str, tuple[str, ...]]]:
        """Unseen proteins (test and validation) with known sites, and the terms that the sites belong to."""
        found: dict[str, list[str]] = {}
        for protein, term in sorted(sites):
            place = self.run.places.get(protein)
            canonical = self.run.ontology.resolve(term)
            if place is not None and place.fold is None and canonical in self.run.stacker_terms:
                found.setdefault(protein, []).append(canonical)
        if not found:
            raise MissingInput(
                "no test or validation protein of the run has a known site of a term that the model scores",
                where="--sites",
                remedy="Name proteins with --protein, or give the sites of this run's proteins",
            )
        return [(protein, tuple(dict.fromkeys(terms))) for protein, terms in found.items()]

    def _related(self, one: str, other: str) -> bool:
        ontology = self.run.ontology
        i, j = ontology.index[one], ontology.index[other]
        return i in ontology.ancestors(j) or j in ontology.ancestors(i)

    def _target(self, protein: str, terms: tuple[str, ...]) -> Target:
        place = self.run.places[protein]
        scores = self._probabilities(place)
        found = tuple(float(scores[self.run.stacker_terms[term]]) for term in terms)
        return Target(protein, place, self.run.sequence(place), terms, found)

    def _probabilities(self, place: Place) -> Probabilities:
        logits = self.run.scores(place.part, "gcn")[place.row : place.row + 1]
        found: Probabilities = self.calibration.probabilities(np.asarray(logits, np.float32), self.aspects)[0]
        return found

    def _test_blocks(self) -> Iterator[Probabilities]:
        logits = self.run.scores("test", "gcn")
        for start in range(0, len(logits), BLOCK_ROWS):
            block = np.asarray(logits[start : start + BLOCK_ROWS], np.float32)
            yield self.calibration.probabilities(block, self.aspects)
