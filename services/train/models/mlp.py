"""Fits the multi-label network: masked cross-entropy, class weights and sampling by registry name."""

from __future__ import annotations

from typing import ClassVar

import torch

from services.train.data.weights import WEIGHTS
from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.descent import descend
from services.train.models.logreg import fit_space
from services.train.models.targets import Entries, MaskedLoss, known_labels, learnable_terms, prior_logits
from services.train.models.training import build
from shared.models.features import MODALITIES, IntArray
from shared.nn.heads import MlpModel, MlpNetwork, raw_blocks
from shared.ontology import ASPECTS


class MlpFitter:
    """Registry entry `mlp`."""

    name: ClassVar[str] = "mlp"
    settings: ClassVar[str] = "mlp"
    sections: ClassVar[tuple[str, ...]] = ("mlp",)
    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    votes: ClassVar[bool] = False
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> MlpModel:
        """Fit on `rows`; the context's held-out fold is only watched.

        Raises:
            MissingInput: no modality is present.
            GowhyError: the loss is not finite.
        """
        config, options = context.config, context.config.mlp
        space = fit_space(data, rows, context, model=self.name)
        groups = [ASPECTS[aspect] for aspect in data.aspects]
        entries = Entries.of(data, self.targets)
        network = build(
            lambda: MlpNetwork(
                space, groups, options.hidden, options.dropout, options.modality_dropout, edges=entries.edges
            ),
            seed=config.training.seed,
            device=context.device,
        )
        priors = prior_logits(data, rows, entries)
        network.heads.set_bias(priors)
        weights = WEIGHTS[config.class_weight](known_labels(data, rows), data.information)
        masked = MaskedLoss.of(
            entries, rows, weights=weights, min_positives=config.min_positives, device=context.device
        )

        def loss_of_batch(batch: IntArray) -> torch.Tensor:
            return masked(network.fitted(raw_blocks(space, data.features, batch, context.device)), batch)

        descend(network, loss_of_batch, data, rows, context, options=options, model=self.name)
        network.heads.set_constant(~learnable_terms(data, rows, config.min_positives, entries), priors)
        return MlpModel(network.cpu(), space, data.terms)


class ConditionalMlpFitter(MlpFitter):
    """The same on conditional targets: each term only where one of its parents is true."""

    name: ClassVar[str] = "mlp_conditional"
    targets: ClassVar[Targets] = "conditional"
