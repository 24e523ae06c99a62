"""The submission and its evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.config.base import Section


class SubmissionConfig(Section):
    """Stage 9: consistent scores in CAFA-6 format, and the evaluation."""

    max_terms_per_protein: int = Field(1500, ge=1, le=1500)
    min_score: float = Field(
        0.001, ge=0.0001, lt=1, description="lower scores are left out, unless a protein has no other"
    )
    significant_figures: int = Field(3, ge=1, le=3)
    rare_terms: Literal["none", "homology"] = "homology"
    rare_confidence: float = Field(0.6, gt=0, le=1, description="score of a rare term that every homologue has")
    descendant_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="how scores are made consistent over the graph: this share of the highest score among a term and "
        "its descendants, the rest of the lowest among it and its ancestors; 1 is the maximum alone",
    )
    known_terms: Literal["leave", "merge"] = Field(
        "leave",
        description="what the submission says of terms that data.known_terms states, and their ancestors: "
        "leave: the model's score; merge: 1",
    )


class EvaluationConfig(Section):
    """Fmax and its relatives, with cafaeval's definitions."""

    propagation: Literal["fill", "max"] = "fill"
    no_orphans: bool = True
    threshold_step: float = Field(0.01, ge=0.001, le=0.5)
