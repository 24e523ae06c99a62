"""A job: which proteins through which models by which methods, each held to the stored score first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from services.xai_worker.explainers import EXPLAINERS, Attribution, Completeness, Explainer
from services.xai_worker.explainers.base import Subject
from services.xai_worker.explainers.integrated_gradients import BATCH_UNITS, IntegratedGradients, Quadrature
from services.xai_worker.explainers.occlusion import BATCH_RESIDUES, Occlusion
from services.xai_worker.explainers.stacker_parts import Relation, StackerParts, parts_of
from services.xai_worker.localisation import Sites
from services.xai_worker.parity import check_embedding, check_score
from services.xai_worker.paths import (
    Bundle,
    CheckedPath,
    PooledPath,
    SequencePath,
    StackerPath,
    folds_of,
    residue_models,
    residue_path,
    stacker_path,
)
from services.xai_worker.request import ExplainRequest
from services.xai_worker.result import (
    ChannelExplanation,
    CompletenessGate,
    EmbeddingParity,
    ExplainedScore,
    Gates,
    Part,
    ResidueExplanation,
    ScalarParity,
    residue_values,
    top_residues,
)
from services.xai_worker.stored import Part as RunPart
from services.xai_worker.stored import StoredRun
from services.xai_worker.targets import Chooser, Target
from shared.errors import UsageError
from shared.logs import Logger
from shared.ontology import ASPECTS
from shared.progress import progress

STACKER = "stacker"
RUN_PARTS: tuple[RunPart, ...] = ("test", "train")
Found = ResidueExplanation | ChannelExplanation
SubjectPath = SequencePath | PooledPath | StackerPath
Observer = Callable[[str, str, str], None]  # protein, model, method: told when one begins


@dataclass(frozen=True, slots=True)
class Checked:
    """A path that passed parity, with the gates of each asked term, in the path's column order."""

    terms: list[str]
    scores: list[ScalarParity]
    embedding: EmbeddingParity | None


@dataclass
class Job:
    """What is explained, with what, for whom."""

    run: StoredRun
    bundle: Bundle
    request: ExplainRequest
    log: Logger
    targets: list[Target] = field(default_factory=list)
    goa: dict[str, Mapping[str, sparse.csr_array]] = field(default_factory=dict)
    observe: Observer | None = None
    batch_halvings: int = 0  # how often the forward batches are halved

    def __post_init__(self) -> None:
        known = (*residue_models(self.bundle), STACKER)
        unknown = [name for name in self.request.models if name not in known]
        if unknown:
            raise UsageError(f"no explainable model {unknown[0]!r}", remedy=f"This run has {', '.join(known)}")
        self.models = [name for name in known if name in (self.request.models or known)]
        residues = [name for name in self.models if name != STACKER]
        if not (residues and self._explainers("residues")) and not self._explainers("channels"):
            raise UsageError(
                f"no method of {', '.join(self.request.methods)} explains {', '.join(self.models)}",
                remedy=f"{STACKER} is explained by {StackerParts.name}, the others by the other methods",
            )

    def choose(self, sites: Sites | None) -> None:
        """Choose the targets, and read what is known of them from GOA in one pass per part."""
        self.targets = Chooser(self.run, self.bundle.calibration).targets(self.request, sites)
        if not self._explainers("channels"):
            return
        for part in RUN_PARTS:
            proteins = [target.protein for target in self.targets if target.place.part == part]
            if proteins:
                matrices = self.run.goa(part, proteins)
                for row, protein in enumerate(proteins):
                    self.goa[protein] = {kind: matrix[[row]] for kind, matrix in matrices.items()}

    def paths(self, target: Target) -> Iterator[tuple[SubjectPath, list[str], list[Explainer]]]:
        """Every path of one protein, its asked terms in column order, and what explains it."""
        if residues := self._explainers("residues"):
            for name in self.models:
                if name != STACKER:
                    yield (
                        residue_path(self.bundle, self.run, name, target.place, target.terms),
                        list(target.terms),
                        residues,
                    )
        if channels := self._explainers("channels"):
            for aspect, terms in target.of_aspect(self.run).items():
                goa = self.goa[target.protein]
                yield (
                    stacker_path(self.bundle, self.run, target.place, aspect=aspect, terms=terms, goa=goa),
                    terms,
                    channels,
                )

    def check(self, target: Target, path: SubjectPath, terms: list[str]) -> Checked:
        """Hold a path to what the run stored.

        Raises:
            ParityError: it computes something else.
        """
        recomputed = _stored_scale(path)
        model, columns = (
            ("gcn", self.run.stacker_terms)
            if path.model == STACKER
            else (path.model.partition("/")[0], self.run.level1_terms)
        )
        stored = self.run.scores(target.place.part, model)[target.place.row]
        scores = [
            check_score(float(value), stored[columns[term]], what=f"{path.model}, {target.protein}, {term}")
            for value, term in zip(recomputed, terms, strict=True)
        ]
        embedding = None
        if isinstance(path, PooledPath):
            kept = self.run.features(target.place).dense[path.modality][0]
            embedding = check_embedding(
                path.pooled(), np.asarray(kept), encoder=path.modality, what=f"{path.model}, {target.protein}"
            )
        return Checked(terms, scores, embedding)

    def explain(self, target: Target) -> list[Found]:
        """All explanations of one protein."""
        found: list[Found] = []
        for path, terms, explainers in self.paths(target):
            checked = self.check(target, path, terms)
            for explainer in explainers:
                what = f"{target.protein} {path.model} {explainer.label}"
                if self.observe is not None:
                    self.observe(target.protein, path.model, explainer.label)
                with progress(what, explainer.work(path)) as bar:
                    attributions = explainer.attribute(path, bar.advance)
                for column, attribution in enumerate(attributions):
                    made = self._document(target, path, explainer.label, checked, made=attribution, column=column)
                    self._log(made)
                    found.append(made)
        return found

    def _explainers(self, subject: Subject) -> list[Explainer]:
        if subject == "channels" and STACKER not in self.models:
            return []
        quadrature = Quadrature(
            tolerance=self.request.tolerance,
            max_steps=self.request.max_steps,
            batch_units=max(1, BATCH_UNITS >> self.batch_halvings),
        )
        batch = max(1, BATCH_RESIDUES >> self.batch_halvings)
        options: dict[str, list[Explainer]] = {
            Occlusion.name: [Occlusion(window, batch) for window in sorted(set(self.request.windows))],
            IntegratedGradients.name: [IntegratedGradients(quadrature)],
            StackerParts.name: [StackerParts(quadrature)],
        }
        asked = [name for name in EXPLAINERS if name in self.request.methods]
        made = [explainer for name in asked for explainer in options.get(name, [EXPLAINERS[name]()])]
        return [explainer for explainer in made if explainer.subject == subject]

    def _document(
        self, target: Target, path: SubjectPath, method: str, checked: Checked, *, made: Attribution, column: int
    ) -> Found:
        term, ontology = checked.terms[column], self.run.ontology
        common: dict[str, Any] = {
            "protein": target.protein,
            "term": term,
            "term_name": ontology.names[ontology.index[term]],
            "aspect": ASPECTS[ontology.aspects[ontology.index[term]]],
            "model": path.model,
            "method": method,
            "score": ExplainedScore(
                logit=made.score,
                reference=made.reference,
                folds=folds_of(self.bundle, target.place),
                probability=target.probabilities[target.terms.index(term)],
            ),
            "gates": Gates(
                parity=checked.scores[column], embedding=checked.embedding, completeness=_gate(made.completeness)
            ),
        }
        if isinstance(path, StackerPath):
            relations = self._relations(path.aspect, term)
            parts = parts_of(made.values, self.bundle.stacker.layout.channels.names, relations)
            return ChannelExplanation(
                **common, parts=[Part(channel=p.channel, relation=p.relation, value=p.value) for p in parts]
            )
        values = residue_values(made.values)
        return ResidueExplanation(
            **common,
            sequence=target.sequence,
            values=values,
            covered=int(path.covered.sum()),
            top=top_residues(target.sequence, values),
        )

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

    def _log(self, made: Found) -> None:
        gates = made.gates
        metrics: dict[str, float | None] = {
            "xai/logit": made.score.logit,
            "xai/parity_difference": gates.parity.difference,
        }
        if gates.completeness is not None:
            metrics["xai/completeness_error"] = gates.completeness.error
            metrics["xai/steps"] = gates.completeness.steps
        self.log.step(metrics, protein=made.protein, term=made.term, model=made.model, method=made.method)
        if gates.completeness is not None and not gates.completeness.converged:
            self.log.warning(
                "not_converged", protein=made.protein, term=made.term, model=made.model, method=made.method,
                completeness_error=gates.completeness.error,
            )  # fmt: skip


def _stored_scale(path: CheckedPath) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = path.stored_scale().double().cpu().numpy()
    return scores


def _gate(completeness: Completeness | None) -> CompletenessGate | None:
    if completeness is None:
        return None
    return CompletenessGate(
        explained=completeness.explained,
        attributed=completeness.attributed,
        error=completeness.error,
        tolerance=completeness.tolerance,
        steps=completeness.steps,
        converged=completeness.converged,
    )
