"""Fits a level-1 network by gradient descent: rows in the order of the config's sampling, the held-out fold watched."""

from __future__ import annotations

import numpy as np
from torch import nn

from services.train.data.sampling import SAMPLERS
from services.train.models.base import FitContext, TrainingData
from services.train.models.training import LossOfBatch, train
from shared.config.cnn import CnnConfig
from shared.config.level1 import MlpConfig
from shared.models.features import IntArray


def descend(
    network: nn.Module,
    loss_of_batch: LossOfBatch,
    data: TrainingData,
    rows: IntArray,
    context: FitContext,
    *,
    options: CnnConfig | MlpConfig,
    model: str,
    draws: np.random.Generator | None = None,
) -> None:
    """`train` on `rows` with a progress bar; arguments and errors as there.

    The context's held-out fold is only watched.
    """
    config = context.config
    with context.progress("training", options.epochs * len(rows), "protein") as bar:
        train(
            network,
            loss_of_batch,
            rows,
            policy=config.training,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=config.training.seed,
            context=context,
            model=model,
            order=lambda chosen, generator: SAMPLERS[config.sampling](chosen, data.clusters, generator),
            validation_rows=np.flatnonzero(data.folds == context.fold) if context.fold >= 0 else None,
            draws=draws,
            after_step=bar.advance,
        )
