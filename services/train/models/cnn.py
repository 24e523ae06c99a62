"""Fits the sequence CNN: filters start from windows of fitted proteins; training masks residues and crops."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from services.train.data.weights import WEIGHTS
from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.descent import descend
from services.train.models.targets import Entries, MaskedLoss, known_labels, learnable_terms, prior_logits
from services.train.models.training import build
from shared.config.cnn import CnnConfig
from shared.models.features import IntArray
from shared.nn.cnn import MASK, CnnModel, CnnNetwork, pad, tokens_of
from shared.ontology import ASPECTS


class CnnFitter:
    """Registry entry `cnn`."""

    name: ClassVar[str] = "cnn"
    settings: ClassVar[str] = "cnn"
    sections: ClassVar[tuple[str, ...]] = ("cnn",)
    modalities: ClassVar[tuple[str, ...]] = ()
    votes: ClassVar[bool] = False
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> CnnModel:
        """Fit on `rows`; the context's held-out fold is only watched.

        Raises:
            GowhyError: the loss is not finite.
        """
        config, options = context.config, context.config.cnn
        seed = config.training.seed
        groups = [ASPECTS[aspect] for aspect in data.aspects]
        sizes = {"channels": options.channels, "kernel": options.kernel, "layers": options.layers}
        network = build(lambda: CnnNetwork(groups, **sizes, dropout=options.dropout), seed=seed, device=context.device)
        generator = np.random.default_rng([seed, max(0, context.fold)])
        start_from_exemplars(network, [data.features.sequences[row] for row in rows], options.exemplar, generator)
        priors = prior_logits(data, rows)
        network.heads.set_bias(priors)
        weights = WEIGHTS[config.class_weight](known_labels(data, rows), data.information)
        masked = MaskedLoss.of(
            Entries(data), rows, weights=weights, min_positives=config.min_positives, device=context.device
        )

        def loss_of_batch(batch: IntArray) -> torch.Tensor:
            sequences = [tokens_of(data.features.sequences[row]) for row in batch]
            if network.training:
                sequences = [disturb(tokens, options, generator) for tokens in sequences]
            tokens, present = pad([tokens[: options.max_length] for tokens in sequences])
            embedded = network.embed(tokens.to(context.device))
            return masked(network(embedded, present.to(context.device)), batch)

        descend(network, loss_of_batch, data, rows, context, options=options, model=self.name, draws=generator)
        network.heads.set_constant(~learnable_terms(data, rows, config.min_positives), priors)
        return CnnModel(network.cpu(), data.terms)


@torch.no_grad()
def start_from_exemplars(
    network: CnnNetwork, sequences: list[str], share: float, generator: np.random.Generator
) -> None:
    """Add a window of a random fitted protein to each filter of the first layer.

    A filter that already answers to some real window finds a motif in tens of examples, where one that
    starts from noise memorises its proteins first.
    """
    usable = [sequence for sequence in sequences if len(sequence) >= network.kernel]
    if not usable or share == 0:
        return
    table = network.table.cpu().numpy()
    frequency = np.bincount(np.concatenate([tokens_of(sequence) for sequence in usable]), minlength=len(table))
    background = (frequency / frequency.sum()) @ table
    for weight in network.filter_weights():  # [filters, D, width]
        windows = np.empty(weight.shape, np.float32)
        for place in range(len(windows)):
            sequence = usable[int(generator.integers(len(usable)))]
            start = int(generator.integers(len(sequence) - weight.shape[2] + 1))
            windows[place] = (table[tokens_of(sequence)[start : start + weight.shape[2]]] - background).T
        weight.add_(torch.from_numpy(windows).to(weight), alpha=share)


def disturb(tokens: IntArray, options: CnnConfig, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random crop of at most `max_length` residues, some of them masked.

    Masking keeps the mask token in distribution, because occlusion asks the model about it.
    """
    start = int(generator.integers(max(1, len(tokens) - options.max_length + 1)))
    cropped = tokens[start : start + options.max_length].copy()
    rate = generator.uniform(0.0, options.max_mask)
    cropped[generator.random(len(cropped)) < rate] = MASK
    return cropped
