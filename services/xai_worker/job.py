"""A job: which proteins through which models by which methods, each held to the stored score first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from services.xai_worker.documents import Checked, Scan, Writer
from services.xai_worker.evidence import EVIDENCE, Context
from services.xai_worker.explainers import EXPLAINERS, Attribution, Explainer, Path
from services.xai_worker.explainers.expected_gradients import ExpectedGradients
from services.xai_worker.explainers.integrated_gradients import IntegratedGradients
from services.xai_worker.explainers.mutations import BATCH_RESIDUES as SCAN_RESIDUES
from services.xai_worker.explainers.mutations import ExactMutations, VirtualMutations
from services.xai_worker.explainers.occlusion import BATCH_RESIDUES, Occlusion
from services.xai_worker.explainers.pooled_exact import PooledExact
from services.xai_worker.explainers.quadrature import BATCH_UNITS, Quadrature
from services.xai_worker.explainers.stacker_parts import StackerParts
from services.xai_worker.gates.gatekeeper import Gatekeeper, Measured, with_specificity
from services.xai_worker.localisation import Sites
from services.xai_worker.methods import TIERS
from services.xai_worker.parity import BFLOAT16_TOLERANCE, check_embedding, check_score
from services.xai_worker.paths import (
    Bundle,
    CheckedPath,
    PooledPath,
    SequencePath,
    StackerPath,
    residue_models,
    residue_path,
    stacker_path,
)
from services.xai_worker.readers import MaskedCache
from services.xai_worker.request import ExplainRequest
from services.xai_worker.result import AnyExplanation, ResidueExplanation
from services.xai_worker.stored import Part as RunPart
from services.xai_worker.stored import StoredRun
from services.xai_worker.targets import Chooser, Target
from services.xai_worker.whole import FINAL, Known, WholePath, known_of
from shared.errors import MissingInput, UsageError
from shared.logs import Logger
from shared.progress import progress

STACKER = "stacker"
RUN_PARTS: tuple[RunPart, ...] = ("test", "train")
BACKGROUND_SEED = 41
SubjectPath = SequencePath | PooledPath | StackerPath | WholePath
Observer = Callable[[str, str, str], None]  # protein, model, method: told when one begins


@dataclass(frozen=True, slots=True)
class Planned:
    """A path, its asked terms in column order, and what explains it."""

    path: SubjectPath
    terms: list[str]
    explainers: list[Explainer]


@dataclass(frozen=True, slots=True)
class Tracks:
    """One method's residue attributions of one path, in the order of the terms, with what was measured of them."""

    made: list[Attribution]
    terms: list[str]
    measured: Measured


@dataclass(slots=True)
class Findings:
    """Everything about one protein; `scans` hold the tables of those documents that are mutation scans."""

    documents: list[AnyExplanation] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)


@dataclass
class Job:
    """What is explained, with what, for whom."""

    run: StoredRun
    bundle: Bundle
    request: ExplainRequest
    log: Logger
    targets: list[Target] = field(default_factory=list)
    goa: dict[str, Mapping[str, sparse.csr_array]] = field(default_factory=dict)
    background: list[Known] = field(default_factory=list)
    background_sequences: tuple[str, ...] = ()
    sites: Sites = field(default_factory=dict)
    observe: Observer | None = None
    batch_halvings: int = 0  # how often the forward batches are halved

    def __post_init__(self) -> None:
        known = (*residue_models(self.bundle), STACKER, FINAL)
        unknown = [name for name in self.request.models if name not in known]
        if unknown:
            raise UsageError(f"no explainable model {unknown[0]!r}", remedy=f"This run has {', '.join(known)}")
        self.tier, self.writer = TIERS[self.request.tier], Writer(self.run, self.bundle)
        self.methods = self.request.methods or self.tier.methods
        self.models = [name for name in known if name in (self.request.models or known)]
        self.evidence = [EVIDENCE[name]() for name in EVIDENCE if name in self.methods and FINAL in self.models]
        if not self.evidence and not any(self._methods_of(model) for model in self.models):
            raise UsageError(
                f"no method of {', '.join(self.methods)} explains {', '.join(self.models)}",
                remedy=f"{STACKER} is explained by {StackerParts.name}, {FINAL} by {', '.join(EVIDENCE)} and the "
                "residue methods, the others by the residue methods",
            )

    def choose(self, sites: Sites | None) -> None:
        """Choose the targets, and read what is known of them from GOA in one pass per part."""
        self.sites = sites or {}
        self.targets = Chooser(self.run, self.bundle.calibration).targets(self.request, sites)
        others = self._background_ids()
        self.background_sequences = tuple(self.run.sequence(self.run.places[protein]) for protein in others)
        if STACKER not in self.models and FINAL not in self.models:
            return
        for part in RUN_PARTS:
            proteins = [target.protein for target in self.targets if target.place.part == part]
            proteins = list(dict.fromkeys([*proteins, *(others if part == "train" else [])]))
            if proteins:
                matrices = self.run.goa(part, proteins)
                for row, protein in enumerate(proteins):
                    self.goa[protein] = {kind: matrix[[row]] for kind, matrix in matrices.items()}
        self.background = [
            known_of(self.bundle, self.run, self.run.places[protein], self.goa[protein]) for protein in others
        ]

    def plan(self, target: Target, cache: MaskedCache | None = None) -> Iterator[Planned]:
        """Every path of one protein."""
        for name in self.models:
            explainers = self._explainers(name)
            if name == STACKER and explainers:
                for aspect, terms in target.of_aspect(self.run).items():
                    goa = self.goa[target.protein]
                    path = stacker_path(self.bundle, self.run, target.place, aspect=aspect, terms=terms, goa=goa)
                    yield Planned(path, terms, explainers)
            elif name == FINAL and (explainers or self.evidence):
                known = known_of(self.bundle, self.run, target.place, self.goa[target.protein])
                for aspect, terms in target.of_aspect(self.run).items():
                    whole = WholePath(self.bundle, self.run, known, aspect=aspect, terms=terms, cache=cache)
                    yield Planned(whole, terms, [e for e in explainers if whole.reads_residues and e.accepts(whole)])
            elif explainers:
                residues = residue_path(self.bundle, self.run, name, target.place, target.terms, cache=cache)
                accepting = [explainer for explainer in explainers if explainer.accepts(residues)]
                if accepting:
                    yield Planned(residues, list(target.terms), accepting)

    def check(self, target: Target, path: SubjectPath, terms: list[str]) -> Checked:
        """Hold a path to what the run stored.

        Raises:
            ParityError: it computes something else.
        """
        recomputed = _stored_scale(path)
        model, columns = (
            ("gcn", self.run.stacker_terms)
            if path.model in (STACKER, FINAL)
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
            if path.encoder.dtype != "float32":
                # The gradients are those of the float32 function: it has to be the same one but for rounding.
                check_embedding(
                    path.explained(),
                    np.asarray(kept),
                    encoder=path.modality,
                    what=f"{path.model} in float32, {target.protein}",
                    tolerance=BFLOAT16_TOLERANCE,
                )
        return Checked(terms, scores, embedding)

    def explain(self, target: Target) -> Findings:
        """All explanations of one protein."""
        found, wholes = Findings(), dict[str, tuple[WholePath, Checked]]()
        residues: list[Tracks] = []
        own_sites = {term: self.sites.get((target.protein, term), frozenset()) for term in target.terms}
        keeper = Gatekeeper(target.sequence, own_sites, self.tier.orders, self.tier.draws)
        for planned in self.plan(target, MaskedCache()):
            checked = self.check(target, planned.path, planned.terms)
            if isinstance(planned.path, WholePath):
                wholes[planned.path.aspect] = (planned.path, checked)
            for explainer in planned.explainers:
                what = f"{target.protein} {planned.path.model} {explainer.label}"
                self._begin(target.protein, planned.path.model, explainer.label)
                with progress(what, explainer.work(planned.path)) as bar:
                    made = explainer.attribute(planned.path, bar.advance)
                if isinstance(planned.path, StackerPath):
                    found.documents += self._channels(target, planned.path, explainer, checked, made)
                elif explainer.subject == "mutations":
                    scans = self._scans(target, planned.path, explainer, checked, made)
                    found.scans += scans
                    found.documents += [scan.explanation for scan in scans]
                else:
                    residues.append(self._tracks(planned, explainer, checked, made, keeper))
        keeper.stabilise([item.measured for item in residues])
        made_residues = [document for item in residues for document in self._residues(target, item)]
        found.documents[:0] = with_specificity(made_residues, self.writer.related(target.terms))
        if wholes and self.evidence:
            found.documents += self._evidence(target, wholes)
        for document in found.documents:
            self._log(document)
        return found

    def _begin(self, protein: str, model: str, method: str) -> None:
        if self.observe is not None:
            self.observe(protein, model, method)

    def _channels(
        self, target: Target, path: StackerPath, explainer: Explainer, checked: Checked, made: list[Attribution]
    ) -> list[AnyExplanation]:
        return [
            self.writer.channels(
                self._common(target, path, explainer, term, item), checked.gates(column, item), path, item
            )
            for column, (term, item) in enumerate(zip(checked.terms, made, strict=True))
        ]

    def _scans(
        self, target: Target, path: SubjectPath, explainer: Explainer, checked: Checked, made: list[Attribution]
    ) -> list[Scan]:
        return [
            self.writer.mutations(
                self._common(target, path, explainer, term, item), checked.gates(column, item), target.sequence, item
            )
            for column, (term, item) in enumerate(zip(checked.terms, made, strict=True))
        ]

    def _tracks(
        self, planned: Planned, explainer: Explainer, checked: Checked, made: list[Attribution], keeper: Gatekeeper
    ) -> Tracks:
        assert not isinstance(planned.path, StackerPath), "the stacker has no residues"  # noqa: S101
        gates = [checked.gates(column, item) for column, item in enumerate(made)]
        values = np.stack([item.values for item in made])
        return Tracks(made, checked.terms, keeper.measure(planned.path, explainer, checked.terms, values, gates))

    def _residues(self, target: Target, tracks: Tracks) -> list[ResidueExplanation]:
        path, explainer = tracks.measured.path, tracks.measured.explainer
        return [
            self.writer.residues(self._common(target, path, explainer, term, item), gates, target.sequence, item)
            for term, item, gates in zip(tracks.terms, tracks.made, tracks.measured.gates, strict=True)
        ]

    def _common(
        self, target: Target, path: Path, explainer: Explainer, term: str, made: Attribution
    ) -> dict[str, object]:
        return self.writer.common(target, term, model=path.model, method=explainer.label, made=made)

    def _evidence(self, target: Target, wholes: Mapping[str, tuple[WholePath, Checked]]) -> list[AnyExplanation]:
        gates = {
            term: checked.gates(column) for _, checked in wholes.values() for column, term in enumerate(checked.terms)
        }
        first = next(iter(wholes.values()))[0]
        context = Context(
            run=self.run,
            bundle=self.bundle,
            target=target,
            known=first.known,
            paths={aspect: path for aspect, (path, _) in wholes.items()},
            gates=gates,
            background=self.background,
            sites=self.sites,
            tolerance=self.request.tolerance,
            max_steps=self.request.max_steps,
            threshold=self.request.threshold,
        )
        found: list[AnyExplanation] = []
        for evidence in self.evidence:
            self._begin(target.protein, FINAL, evidence.name)
            with progress(f"{target.protein} {evidence.name}", 1) as bar:
                try:
                    found += evidence.explain(context)
                except MissingInput as error:
                    if evidence.name in self.request.methods:
                        raise
                    # Part of a tier, not asked for by name: a bundle without a KNN reference is a legitimate one.
                    self.log.warning("left_out", protein=target.protein, method=evidence.name, reason=str(error))
                bar.advance(1)
        return found

    def _background_ids(self) -> list[str]:
        """Train proteins that were fitted on, drawn by a fixed seed; none of the targets."""
        asked = {target.protein for target in self.targets}
        proteins = self.run.proteins["train"]["id"]
        rows = [row for row in np.flatnonzero(self.run.folds >= 0).tolist() if proteins.iloc[row] not in asked]
        rng = np.random.default_rng(BACKGROUND_SEED)
        drawn = rng.permutation(rows)[: self.tier.background].tolist()
        return [str(proteins.iloc[row]) for row in sorted(drawn) if self.run.places[proteins.iloc[row]].part == "train"]

    def _methods_of(self, model: str) -> list[str]:
        """The asked methods that are for this model, in registry order."""
        asked = [name for name in EXPLAINERS if name in self.methods]
        channels = [name for name in asked if EXPLAINERS[name]().subject == "channels"]
        if model == STACKER:
            return channels
        residues = [name for name in asked if name not in channels]
        if model == FINAL and FINAL not in self.request.models:
            return [name for name in residues if name in self.tier.final]
        return residues

    def _explainers(self, model: str) -> list[Explainer]:
        units, residues, scan = (
            max(1, size >> self.batch_halvings) for size in (BATCH_UNITS, BATCH_RESIDUES, SCAN_RESIDUES)
        )
        quadrature = Quadrature(tolerance=self.request.tolerance, max_steps=self.request.max_steps, batch_units=units)
        virtual = VirtualMutations(quadrature)
        options: dict[str, list[Explainer]] = {
            Occlusion.name: [Occlusion(window, residues) for window in sorted(set(self.request.windows))],
            IntegratedGradients.name: [IntegratedGradients(quadrature)],
            ExpectedGradients.name: [
                ExpectedGradients(self.background_sequences, tolerance=self.request.tolerance, batch_units=units)
            ],
            PooledExact.name: [PooledExact(quadrature)],
            VirtualMutations.name: [virtual],
            ExactMutations.name: [ExactMutations(self.request.scan_positions, virtual=virtual, batch_residues=scan)],
            StackerParts.name: [StackerParts(quadrature)],
        }
        names = self._methods_of(model)
        return [explainer for name in names for explainer in options.get(name, [EXPLAINERS[name]()])]

    def _log(self, made: AnyExplanation) -> None:
        gates = made.gates
        metrics: dict[str, float | None] = {
            "xai/logit": made.score.logit,
            "xai/parity_difference": gates.parity.difference,
        }
        if gates.completeness is not None:
            metrics["xai/completeness_error"] = gates.completeness.error
            metrics["xai/steps"] = gates.completeness.steps
        if gates.faithfulness is not None:
            metrics["xai/faithfulness_p"] = gates.faithfulness.p
        self.log.step(metrics, protein=made.protein, term=made.term, model=made.model, method=made.method)
        if gates.completeness is not None and not gates.completeness.converged:
            self.log.warning(
                "not_converged", protein=made.protein, term=made.term, model=made.model, method=made.method,
                completeness_error=gates.completeness.error,
            )  # fmt: skip


def _stored_scale(path: CheckedPath) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = path.stored_scale().double().cpu().numpy()
    return scores
