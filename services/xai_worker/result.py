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
    error: Rounded = Field(description="|attributed - explained| / max(|explained|, 0.001)")
    tolerance: Rounded
    steps: int
    converged: bool


class Gates(Document):
    """What was measured about this explanation itself."""

    parity: ScalarParity
    embedding: EmbeddingParity | None
    completeness: CompletenessGate | None


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


class ChannelExplanation(_Explanation):
    """What each channel of the stacker adds to the logit, through which terms."""

    kind: Literal["channels"] = "channels"
    parts: list[Part]


Explanation = Annotated[ResidueExplanation | ChannelExplanation, Field(discriminator="kind")]
EXPLANATION: TypeAdapter[ResidueExplanation | ChannelExplanation] = TypeAdapter(Explanation)


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


def json_line(explanation: ResidueExplanation | ChannelExplanation) -> bytes:
    """One line of explanations.jsonl: sorted keys, no spaces."""
    value = explanation.model_dump(mode="json")
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("a residue that the model never sees has no value")
    return value
