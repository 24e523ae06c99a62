"""Fits the homology vote: it only remembers who has which label."""

from __future__ import annotations

from typing import ClassVar

from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.reference import make_reference
from shared.models.features import IntArray
from shared.models.homology_vote import HomologyVote


class HomologyFitter:
    """Registry entry `homology`."""

    name: ClassVar[str] = "homology"
    settings: ClassVar[str] = "homology"
    sections: ClassVar[tuple[str, ...]] = ("homology",)
    modalities: ClassVar[tuple[str, ...]] = ()
    votes: ClassVar[bool] = True
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> HomologyVote:
        """Make the proteins at `rows` the reference."""
        options = context.config.homology
        return HomologyVote(
            make_reference(data, rows),
            data.terms,
            identity_power=options.identity_power,
            prior_weight=options.prior_weight,
            taxon_weight=options.taxon_weight,
        )
