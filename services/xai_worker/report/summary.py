"""The ten-second answer: per term what was predicted, how sure, which residues, which evidence, and what was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.xai_worker.report.gates import Gate, gates_of
from services.xai_worker.report.text import probability_text, signed, source_name
from services.xai_worker.result import (
    AccountExplanation,
    AnyExplanation,
    ChannelExplanation,
    CounterfactualExplanation,
    ModalityExplanation,
    ResidueExplanation,
)

MODEL_ORDER = ("final", "cnn")  # the first one that is there speaks for the term
METHOD_ORDER = ("occlusion", "integrated_gradients")
CERTAIN, LIKELY = 0.9, 0.5


@dataclass(frozen=True, slots=True)
class Share:
    """A piece of evidence and what it adds to the logit."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One row of the table at the top, and the sentences that open the term's section."""

    main: ResidueExplanation | None
    probability: float | None
    certainty: str
    shares: list[Share]
    gates: list[Gate]
    sentences: list[str]

    @property
    def passed(self) -> int:
        """Gates that pass."""
        return sum(gate.status == "pass" for gate in self.gates)

    @property
    def checked(self) -> int:
        """Gates with a verdict."""
        return sum(gate.status != "unknown" for gate in self.gates)

    @property
    def failed(self) -> list[str]:
        """Names of the gates that do not pass."""
        return [gate.name for gate in self.gates if gate.status == "fail"]

    @property
    def open(self) -> list[str]:
        """Names of the gates without a verdict."""
        return [gate.name for gate in self.gates if gate.status == "unknown"]


def summary_of(explanations: Sequence[AnyExplanation]) -> Summary:
    """Summarise one term of one protein."""
    main = main_track([item for item in explanations if isinstance(item, ResidueExplanation)])
    probability = explanations[0].score.probability
    shares = evidence_of(explanations)
    gates = gates_of(main if main is not None else explanations[0])
    sentences = [_score_sentence(explanations[0]), *_rest_sentences(explanations, main, shares)]
    return Summary(main, probability, certainty(probability), shares, gates, sentences)


def main_track(tracks: Sequence[ResidueExplanation]) -> ResidueExplanation | None:
    """The residue explanation that speaks for the term: final before cnn before others, occlusion first."""
    return min(
        tracks,
        key=lambda item: (_place(item.model, MODEL_ORDER), item.model, _place(item.method, METHOD_ORDER), item.method),
        default=None,
    )


def certainty(probability: float | None) -> str:
    """A word beside the figure; it follows the calibrated score and nothing else."""
    if probability is None:
        return "not scored"
    if probability >= CERTAIN:
        return "very likely"
    return "likely" if probability >= LIKELY else "unlikely"


def evidence_of(explanations: Sequence[AnyExplanation]) -> list[Share]:
    """What adds or takes most, largest first: modalities where they were shared out, else the account, else channels."""
    for item in explanations:
        if isinstance(item, ModalityExplanation):
            return _sorted(Share(source_name(s.modality), s.value) for s in item.shares)
    for item in explanations:
        if isinstance(item, AccountExplanation):
            return _sorted(Share(source_name(p.source), p.value) for p in item.parts)
    totals: dict[str, float] = {}
    for item in explanations:
        if isinstance(item, ChannelExplanation):
            for part in item.parts:
                name = source_name(part.channel)
                totals[name] = totals.get(name, 0.0) + part.value
    return _sorted(Share(name, value) for name, value in totals.items())


def residues_text(explanation: ResidueExplanation, count: int = 5) -> str:
    """The first residues as text, in the order of the sequence, neighbours joined: G9-S11 K42."""
    best = sorted(explanation.top[:count], key=lambda item: item.position)
    groups: list[list[int]] = []
    for item in best:
        if groups and item.position == groups[-1][-1] + 1:
            groups[-1].append(item.position)
        else:
            groups.append([item.position])
    sequence = explanation.sequence
    names = [[f"{sequence[at - 1]}{at}" for at in (group[0], group[-1])] for group in groups]
    return " ".join(first if first == last else f"{first}-{last}" for first, last in names)


def _score_sentence(item: AnyExplanation) -> str:
    if item.score.probability is None:
        return "The run has no final score of this term."
    return (
        f"The model finds {item.term_name} {certainty(item.score.probability)}: "
        f"calibrated score {probability_text(item.score.probability)}."
    )


def _rest_sentences(
    explanations: Sequence[AnyExplanation], main: ResidueExplanation | None, shares: Sequence[Share]
) -> list[str]:
    found = []
    if shares:
        best = ", ".join(f"{share.name} {signed(share.value, 2)}" for share in shares[:3] if share.value)
        found.append(f"What moves it most, in logits: {best}." if best else "No evidence moves it.")
    if main is not None and main.top:
        found.append(
            f"Of the residues, {residues_text(main)} raise it most ({main.model}, {main.method.replace('_', ' ')})."
        )
    elif main is not None:
        found.append("No residue raises it.")
    found += [
        f"Masking {len(item.removed)} residue{'s' if len(item.removed) != 1 else ''} takes the probability from "
        f"{item.own_probability:.2g} to {item.after:.2g}."
        for item in explanations
        if isinstance(item, CounterfactualExplanation) and item.found and item.subject == "residues"
    ]
    return found


def _sorted(shares: object) -> list[Share]:
    return sorted(shares, key=lambda share: (-abs(share.value), share.name))  # type: ignore[call-overload,no-any-return]


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
