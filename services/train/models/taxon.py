"""Fits the taxon prior: it only remembers who has which label, and in which species."""

from __future__ import annotations

from typing import ClassVar

from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.reference import make_reference
from shared.models.features import IntArray
from shared.models.taxon_prior import TaxonPrior


class TaxonFitter:
    """Registry entry `taxon`."""

    name: ClassVar[str] = "taxon"
    settings: ClassVar[str] = "taxon"
    sections: ClassVar[tuple[str, ...]] = ("taxon",)
    modalities: ClassVar[tuple[str, ...]] = ()
    votes: ClassVar[bool] = True
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> TaxonPrior:
        """Make the proteins at `rows` the reference."""
        strength = context.config.taxon.prior_proteins
        return TaxonPrior(make_reference(data, rows), data.terms, prior_proteins=strength)
