"""One explanation as a document: what is written, line by line, to explanations.jsonl.

The JSON Schema in `schema/explanation.v1.json` is generated from these models; a test fails when the
two drift. `python -m schema` writes it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from services.xai_worker.explainers.stacker_parts import Relation

SCHEMA_VERSION = "1.0"
SIGNIFICANT_DIGITS = 6
TOP_RESIDUES = 10
DISCLAIMER = (
    "This explains the model, not biology: it says what the model's score rests on, and the model may be "
    "right for reasons that are not the protein's."
)


def round_significant(value: float) -> float:
    """Six significant digits: more would promise more than a float32 sum holds, and would hash differently."""
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {value}")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # no negative zero


Rounded = Annotated[float, AfterValidator(round_significant)]


class Document(BaseModel):
    """A part of an explanation; values are frozen, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScalarParity(Document):
    """The recomputed logit beside the one that the run stored; beyond the tolerance nothing is explained."""

    recomputed: Rounded
    stored: Rounded
    difference: Rounded
    tolerance: Rounded = Field(description="0.01 plus half a float16 step of the stored number")


class EmbeddingParity(Document):
    """The recomputed pooled embedding beside the stored one: ||z - z'|| / ||z'||."""

    encoder: str
    relative_error: Rounded
    tolerance: Rounded


class CompletenessGate(Document):
    """Do the parts sum to F(x) - F(x')? `converged` is the gate."""

    explained: Rounded = Field(description="F(x) - F(x')")
    attributed: Rounded = Field(description="sum of the parts")
    error: Rounded = Field(description="|attributed - explained| / max(|explained|, 0.05)")
    tolerance: Rounded
    steps: int
    converged: bool


class FaithfulnessPoint(Document):
    """How far the logit falls when so many residues are masked: the explanation's first ones, and random ones."""

    masked: int
    drop: Rounded
    random_mean: Rounded
    random_low: Rounded = Field(description="2.5 % quantile of the random orders")
    random_high: Rounded = Field(description="97.5 % quantile of the random orders")


class FaithfulnessGate(Document):
    """Does masking the residues that it names hurt more than masking random ones, within the share that models train with?"""

    budget: Rounded = Field(description="largest masked share of the residues")
    orders: int = Field(description="random orders")
    drop: Rounded = Field(description="mean fall of the logit over the curve")
    random_mean: Rounded
    random_low: Rounded = Field(description="2.5 % quantile of the random orders' mean falls")
    random_high: Rounded
    difference: Rounded = Field(description="drop - random_mean")
    low: Rounded = Field(description="95 % bootstrap interval of the difference, over random orders")
    high: Rounded
    p: Rounded = Field(description="(1 + random orders that fall as far) / (1 + random orders)")
    curve: list[FaithfulnessPoint]
    passed: bool = Field(description="p < 0.01 and low > 0")


class StabilityGate(Document):
    """Does the explanation stay when unimportant residues change into similar ones?"""

    draws: int
    substitutions: int = Field(description="conservative substitutions per draw, at residues of the lower half")
    spearman: Rounded = Field(description="mean rank correlation with the explanation of the unchanged protein")
    lowest: Rounded = Field(description="the worst draw's")
    jaccard: Rounded = Field(description="mean overlap of the ten first residues")
    passed: bool = Field(description="spearman >= 0.7")


class SpecificityGate(Document):
    """Does it explain this term, or every term alike?"""

    spearman: Rounded = Field(description="highest rank correlation with the explanation of an unrelated term")
    term: str = Field(description="that term")
    compared: int = Field(description="unrelated terms that were compared")
    passed: bool = Field(description="spearman <= 0.8")


class ComplexityGate(Document):
    """How many residues carry the explanation; there is nothing to pass."""

    effective_residues: Rounded = Field(description="exp of the entropy of |value| / sum |value|")
    gini: Rounded
    residues: int


class SitesGate(Document):
    """Do the first residues lie in known sites? The null shifts the values around the sequence, which keeps their autocorrelation."""

    status: Literal["known", "unknown"] = Field(description="unknown: no known site of the protein fits the term")
    sites: int
    average_precision: Rounded | None
    auroc: Rounded | None
    fold: Rounded | None = Field(
        description="precision of as many first residues as there are sites, over the prevalence"
    )
    p: Rounded | None = Field(description="of the average precision, under circular shifts")
    shifts: int
    passed: bool | None = Field(description="p < 0.05; null where no site is known")


class Gates(Document):
    """What was measured about this explanation itself; null where a gate does not apply or was not asked for."""

    parity: ScalarParity
    embedding: EmbeddingParity | None
    completeness: CompletenessGate | None
    faithfulness: FaithfulnessGate | None = None
    stability: StabilityGate | None = None
    specificity: SpecificityGate | None = None
    complexity: ComplexityGate | None = None
    sites: SitesGate | None = None


class ExplainedScore(Document):
    """The number that is explained: the mean over fold models of one logit."""

    logit: Rounded
    reference: Rounded | None = Field(description="logit of the neutral input, where the method has one")
    folds: list[int] = Field(description="the fold models whose logits are averaged")
    probability: Rounded | None = Field(description="the run's final, calibrated score of the term")


class TopResidue(Document):
    """One of the residues that raise the score most."""

    position: int = Field(ge=1)
    residue: str
    value: Rounded


class Part(Document):
    """What one stacker channel adds through one kind of term."""

    channel: str
    relation: Relation
    value: Rounded


class _Explanation(Document):
    schema_version: Literal["1.0"] = "1.0"
    protein: str
    term: str
    term_name: str
    aspect: str
    model: str
    method: str
    score: ExplainedScore
    gates: Gates


class ResidueExplanation(_Explanation):
    """What each residue adds to the logit; null where the model never sees the residue."""

    kind: Literal["residues"] = "residues"
    sequence: str
    values: list[Rounded | None]
    covered: int
    top: list[TopResidue]
    standard_errors: list[Rounded | None] | None = Field(None, description="of `values`, for sampled methods")
    note: str | None = Field(None, description="what the values are not, where they could be misread")


class Mutation(Document):
    """One substitution and what it does to the logit."""

    position: int = Field(ge=1)
    residue: str
    substitution: str
    value: Rounded


class MutationExplanation(_Explanation):
    """What substitutions do to the logit. The whole table is in `table`: a row per (position, substitution)."""

    kind: Literal["mutations"] = "mutations"
    sequence: str
    table: Literal["mutations.parquet"] = "mutations.parquet"
    alphabet: str = Field(description="substitutions, in the table's order")
    positions: list[int] = Field(description="scanned positions")
    lowering: list[Mutation] = Field(description="the substitutions that lower the logit most")
    raising: list[Mutation]
    agreement: Rounded | None = Field(
        None, description="rank correlation of exact and virtual values where both are there"
    )


class TermPart(Document):
    """What one term's channels add together."""

    term: str
    name: str
    relation: Relation
    value: Rounded


class ChannelExplanation(_Explanation):
    """What each channel of the stacker adds to the logit, through which terms."""

    kind: Literal["channels"] = "channels"
    parts: list[Part]
    terms: list[TermPart] = Field([], description="the terms that add or take most, largest first")


class ModalityShare(Document):
    """One modality's exact Shapley value; the interval is over the background proteins."""

    modality: str
    value: Rounded
    low: Rounded = Field(description="95 % bootstrap interval")
    high: Rounded


class Interaction(Document):
    """Shapley interaction index of two modalities: above 0 they say more together than apart."""

    first: str
    second: str
    value: Rounded


class ModalityExplanation(_Explanation):
    """What each modality adds to the final logit, against background proteins; `score.reference` is their mean."""

    kind: Literal["modalities"] = "modalities"
    shares: list[ModalityShare]
    interactions: list[Interaction]
    coalitions: int
    background: int = Field(description="train proteins that stand in for what is absent")
    seed: int
    efficiency_residual: Rounded = Field(description="|sum of shares - (score - reference)|")


class Alignment(Document):
    """A local alignment; positions are 1-based and inclusive, `-` is a gap."""

    identity: Rounded
    query_start: int
    query_end: int
    neighbour_start: int
    neighbour_end: int
    query: str
    neighbour: str
    evalue: Rounded


class CarriedSite(Document):
    """A known site of a neighbour, and the residue that is aligned with it."""

    neighbour_position: int
    neighbour_residue: str
    position: int = Field(ge=1)
    residue: str


class Neighbour(Document):
    """One labelled neighbour and its exact share of the vote; shares sum to `vote`."""

    protein: str
    cosine: Rounded
    weight: Rounded
    has_term: bool
    share: Rounded
    alignment: Alignment | None = Field(description="null: no significant similarity of the sequences")
    sites: list[CarriedSite]


class NeighbourExplanation(_Explanation):
    """The KNN correction: corrected = (1 - weight) * probability + weight * vote, and who votes."""

    kind: Literal["neighbours"] = "neighbours"
    weight: Rounded = Field(description="lambda, the share of the vote in the corrected probability")
    own_probability: Rounded = Field(description="calibrated, before the correction and before propagation")
    vote: Rounded
    corrected: Rounded
    neighbours: list[Neighbour]


class PathNode(Document):
    """A term near the explained one: its own probability, and the one it has after propagation."""

    term: str
    name: str
    own: Rounded
    probability: Rounded


class Violation(Document):
    """A child that scored above its parent before propagation."""

    child: str
    parent: str
    gap: Rounded


class PathExplanation(_Explanation):
    """Which descendant gave the term its final probability, and how the term hangs in the graph."""

    kind: Literal["go_path"] = "go_path"
    path: list[str] = Field(description="from the explained term down to the one whose own probability is the highest")
    descendant_share: float = Field(
        1.0, description="share of that probability in the final one; the rest is the lowest ancestor's"
    )
    lowest: str | None = Field(
        None, description="the term or ancestor of the lowest own probability; null where it has no share"
    )
    nodes: list[PathNode] = Field(description="the path, and every ancestor of the explained term")
    edges: list[tuple[str, str]] = Field(description="(child, parent) among the nodes")
    violations: list[Violation]


class Removed(Document):
    """A residue (1-based, such as K12) or a modality that is taken away, and the probability after it."""

    name: str
    position: int | None = None
    probability: Rounded


class CounterfactualExplanation(_Explanation):
    """The smallest set found whose removal takes the term's own probability below the threshold."""

    kind: Literal["counterfactual"] = "counterfactual"
    subject: Literal["residues", "modalities"]
    threshold: Rounded
    own_probability: Rounded
    found: bool
    removed: list[Removed] = Field(description="in the order of removal")
    after: Rounded = Field(description="the probability with all of them removed")
    search: Literal["greedy", "exhaustive"]
    minimality: Literal["smallest", "irreducible", "none"] = Field(
        description="smallest: no smaller set exists; irreducible: none of its members can be given back; none: not found"
    )
    budget: int = Field(description="the largest set that was tried")
    fixed: list[str] = Field(description="inputs that were not recomputed")


class AccountPart(Document):
    """What one kind of input adds to the final logit."""

    source: str = Field(description="residues:<encoder>, words, taxon, goa:<kind> or votes:<model>")
    value: Rounded


class Word(Document):
    """A word of the protein's text: its TF-IDF weight and what it adds."""

    word: str
    weight: Rounded
    value: Rounded


class AccountExplanation(_Explanation):
    """Residues, words, taxon, annotations and votes together, from inputs to the final logit."""

    kind: Literal["account"] = "account"
    sequence: str
    parts: list[AccountPart]
    remainder: Rounded = Field(description="(score - reference) - sum of parts")
    residues: list[Rounded | None] = Field(description="every encoder's together, per residue")
    words: list[Word] = Field(description="largest first")
    words_left_out: int
    other_words: Rounded = Field(description="sum over the words that are left out of the list, absent ones included")


AnyExplanation = (
    ResidueExplanation
    | ChannelExplanation
    | MutationExplanation
    | ModalityExplanation
    | NeighbourExplanation
    | PathExplanation
    | CounterfactualExplanation
    | AccountExplanation
)
Explanation = Annotated[AnyExplanation, Field(discriminator="kind")]
EXPLANATION: TypeAdapter[AnyExplanation] = TypeAdapter(Explanation)


def residue_values(values: npt.NDArray[np.float64]) -> list[float | None]:
    """Attributions as they are stored: rounded, and None where the model never sees the residue."""
    return [None if math.isnan(value) else round_significant(value) for value in values.tolist()]


def ranks(values: Sequence[float | None]) -> list[int | None]:
    """Rank 1 raises the score most; equal values in order of position; None stays None."""
    order = sorted((i for i, value in enumerate(values) if value is not None), key=lambda i: (-_known(values[i]), i))
    found: list[int | None] = [None] * len(values)
    for rank, position in enumerate(order, start=1):
        found[position] = rank
    return found


def top_residues(sequence: str, values: Sequence[float | None], count: int = TOP_RESIDUES) -> list[TopResidue]:
    """The residues of lowest rank that raise the score at all."""
    placed = sorted((rank, i) for i, rank in enumerate(ranks(values)) if rank is not None)
    best = [i for _, i in placed[:count] if _known(values[i]) > 0]
    return [TopResidue(position=i + 1, residue=sequence[i], value=_known(values[i])) for i in best]


def json_line(explanation: AnyExplanation) -> bytes:
    """One line of explanations.jsonl: sorted keys, no spaces."""
    value = explanation.model_dump(mode="json")
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("a residue that the model never sees has no value")
    return value
