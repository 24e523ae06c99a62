"""The gates of one explanation as a reader sees them: a word, a figure, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from services.xai_worker.report.text import signed
from services.xai_worker.result import AnyExplanation, Gates, ResidueExplanation

Status = Literal["pass", "fail", "unknown"]
OWED = {
    "faithful": "does masking the residues that it names hurt more than masking random ones?",
    "stable": "does it stay when unimportant residues change?",
    "term-specific": "does it explain this term, or every term alike?",
}


@dataclass(frozen=True, slots=True)
class Gate:
    """One check. `figure` is short enough for a chip, `meaning` a sentence."""

    name: str
    status: Status
    figure: str
    meaning: str


def gates_of(explanation: AnyExplanation) -> list[Gate]:
    """The checks that were made of this explanation, and those that could not be (`unknown`)."""
    gates = explanation.gates
    found = [*_model(gates), *_completeness(gates), *_measured(gates), *_sites(gates)]
    if isinstance(explanation, ResidueExplanation):
        found += [_coverage(explanation), *_not_measured(found)]
    return found


def _model(gates: Gates) -> Iterator[Gate]:
    parity = gates.parity
    yield Gate(
        "same model", "pass", f"{parity.difference:.2g}",
        f"Parity: the recomputed logit {signed(parity.recomputed, 4)} differs from the stored {signed(parity.stored, 4)} by "
        f"{parity.difference:.2g}; more than {parity.tolerance:.2g} would have been refused.",
    )  # fmt: skip
    if gates.embedding is not None:
        own = gates.embedding
        yield Gate(
            "same embedding", "pass", f"{own.relative_error:.2g}",
            f"The recomputed {own.encoder} embedding differs from the stored one by {own.relative_error:.2g}, "
            f"of at most {own.tolerance:.2g}.",
        )  # fmt: skip


def _completeness(gates: Gates) -> Iterator[Gate]:
    own = gates.completeness
    if own is not None:
        yield Gate(
            "complete", "pass" if own.converged else "fail",
            f"{own.error:.2g}" if own.converged else f"not_converged {own.error:.2g}",
            f"Completeness: the parts add up to {signed(own.attributed, 4)} of {signed(own.explained, 4)} after {own.steps} steps; "
            f"relative error {own.error:.2g}, at most {own.tolerance:.2g} is accepted.",
        )  # fmt: skip


def _measured(gates: Gates) -> Iterator[Gate]:
    if (faithful := gates.faithfulness) is not None:
        yield Gate(
            "faithful", _status(faithful.passed), f"p {faithful.p:.2g}",
            f"Faithfulness: masking its first residues lowers the logit by {faithful.drop:.3g}, random residues by "
            f"{faithful.random_mean:.3g}; difference {signed(faithful.difference, 3)} (95 % {signed(faithful.low, 3)} to "
            f"{signed(faithful.high, 3)}), p {faithful.p:.2g} over {faithful.orders} random orders, "
            f"at most {faithful.budget:.0%} of the residues masked.",
        )  # fmt: skip
    if (stable := gates.stability) is not None:
        yield Gate(
            "stable", _status(stable.passed), f"ρ {stable.spearman:.2f}",
            f"Stability: rank correlation {stable.spearman:.2f} on average, {stable.lowest:.2f} at worst, over "
            f"{stable.draws} draws of {stable.substitutions} conservative substitutions at unimportant residues; the "
            f"ten first residues overlap by {stable.jaccard:.2f}.",
        )  # fmt: skip
    if (specific := gates.specificity) is not None:
        yield Gate(
            "term-specific", _status(specific.passed), f"ρ {specific.spearman:.2f}",
            f"Specificity: rank correlation {specific.spearman:.2f} with the explanation of {specific.term}, the most "
            f"similar of {specific.compared} unrelated terms; above 0.8 it explains every term alike.",
        )  # fmt: skip


def _sites(gates: Gates) -> Iterator[Gate]:
    own = gates.sites
    if own is None:
        return
    if own.status == "unknown" or own.passed is None:
        yield Gate("known sites", "unknown", "unknown", "No known site of this protein fits the term: not checked.")
        return
    yield Gate(
        "known sites", _status(own.passed), f"AP {own.average_precision or 0:.2f}",
        f"Known sites: average precision {own.average_precision or 0:.2f} at {own.sites} sites, "
        f"{own.fold or 0:.1f} times chance; p {own.p or 1:.2g} under {own.shifts} circular shifts. "
        "Unannotated is not negative, so this is a lower bound.",
    )  # fmt: skip


def _not_measured(found: list[Gate]) -> Iterator[Gate]:
    """What would have to be known before a residue explanation is trusted, and is not."""
    names = {gate.name for gate in found}
    for name, question in OWED.items():
        if name not in names:
            yield Gate(name, "unknown", "not measured", f"Not measured for this explanation: {question}")


def _coverage(explanation: ResidueExplanation) -> Gate:
    length = len(explanation.sequence)
    whole = explanation.covered == length
    return Gate(
        "whole sequence", "pass" if whole else "fail", f"{explanation.covered} of {length}",
        f"Coverage: the model sees {explanation.covered} of {length} residues; the others have no value.",
    )  # fmt: skip


def _status(passed: bool) -> Status:
    return "pass" if passed else "fail"
