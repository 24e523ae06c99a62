"""How the stacker of one aspect is fitted for one fold.

First the linear blend, a convex fit with every term's own bias and scale pulled towards its aspect's;
then, on top of the kept blend, the graph network. What the fold's own proteins and the validation
proteins are labelled with is never read. Which epoch is kept is decided on an inner held-out fold; the
blend alone competes as epoch 0, so that a network which does not help is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional

from services.train.models.targets import orphans, with_parent
from services.train.models.training import EpochRecord, build, mean_loss, train
from services.train.team import ALONE, Team
from shared.config import StackerConfig
from shared.config.training import TrainingConfig
from shared.logs import Logger
from shared.models.base import logit
from shared.models.features import FloatArray, IntArray
from shared.nn.runtime import torch_threads
from shared.nn.stacker import AspectStacker, StackerLayout, float32_only
from shared.ontology import ASPECTS

BLEND_ITERATIONS = 60
STANDARDISING_PROTEINS = 256
CROSS_PROTEINS = 8000  # that fit what the other aspects add
SCALE_PRIOR = 10.0  # times `base_prior`: a term's slope is trusted less than its bias
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class AspectData:
    """Train proteins as the stacker of one aspect sees them; rows follow `parsed/train_seq.feather`."""

    aspect: str
    layout: StackerLayout
    level1: Mapping[str, npt.NDArray[np.float16]]  # out-of-fold logits [protein, level-1 term]
    columns: IntArray  # [term], position among the level-1 terms
    goa: Mapping[str, sparse.csr_array]  # kind -> [protein, term]
    labels: sparse.csr_array  # 0/1 [protein, term]
    annotated: npt.NDArray[np.bool_]  # [protein], in this aspect
    folds: IntArray  # [protein], -1 for validation
    clusters: IntArray
    missing: Mapping[int, FloatArray]  # fold -> [term], 1 where its level-1 models never fitted the term
    cross: FloatArray | None = None  # [protein, component], 0 for validation

    def inputs(self, rows: IntArray) -> torch.Tensor:
        """Channels [len(rows), term, channel]; every row must be in a fold."""
        return torch.from_numpy(
            self.layout.channels.stack(
                {name: matrix[rows] for name, matrix in self.level1.items()},
                np.stack([self.missing[int(fold)] for fold in self.folds[rows]]),
                {kind: matrix[rows] for kind, matrix in self.goa.items()},
                self.columns,
                None if self.cross is None else self.cross[rows],
            )
        )

    def targets(self, rows: IntArray) -> torch.Tensor:
        """Labels [len(rows), term], 0 or 1."""
        return torch.from_numpy(self.labels[rows].toarray())


@dataclass(frozen=True, slots=True)
class StackingContext:
    """Where a fit runs, by which policy, and whom it tells; a `TrainingContext`."""

    config: StackerConfig
    policy: TrainingConfig
    device: str
    threads: int
    stage: str
    fold: int
    log: Logger = field(repr=False)
    after_epoch: Callable[[], None] = lambda: None
    team: Team = ALONE


@dataclass(frozen=True, slots=True)
class InnerSplit:
    """Rows that train one fold's stacker, and rows that choose its epoch; all annotated in the aspect."""

    train: IntArray
    inner: IntArray


def inner_split(data: AspectData, fold: int) -> InnerSplit:
    """Hold the next fold out of the others; with only one other fold, half of its clusters."""
    others = [int(number) for number in np.unique(data.folds[data.folds >= 0]) if number != fold]
    usable = data.annotated & (data.folds >= 0) & (data.folds != fold)
    if len(others) >= 2:
        chosen = data.folds == min(others, key=lambda number: (number < fold, number))
    else:
        _, rank = np.unique(data.clusters, return_inverse=True)
        chosen = rank % 2 == 1
    return InnerSplit(np.flatnonzero(usable & ~chosen), np.flatnonzero(usable & chosen))


def fit_aspect(data: AspectData, context: StackingContext) -> tuple[AspectStacker, dict[str, Any]]:
    """Fit the stacker of one aspect for `context.fold`.

    Returns:
        the network on the CPU, in evaluation mode, and its record for `models/stacker.json`.
    """
    config, seed = context.config, fit_seed(context.config.seed, context.fold, data.aspect)
    network = build(lambda: data.layout.network(data.aspect), seed=seed, device=context.device)
    draw = np.random.default_rng(seed)
    split = inner_split(data, context.fold)
    inner = np.sort(draw.permutation(split.inner)[: config.inner_proteins])
    split = InnerSplit(split.train, inner)
    record: dict[str, Any] = {"proteins_train": len(split.train), "proteins_inner": len(inner), "seed": seed}
    if len(split.train) == 0:  # nothing is known of this aspect: the plain mean of the level-1 models stays
        return network.cpu().eval(), {**record, "loss_inner": [], "epochs_kept": [], "loss_inner_kept": None}
    with torch_threads(context.threads), float32_only(context.device):
        sample = np.sort(draw.permutation(split.train)[: config.base_proteins])
        set_priors(network, data, split.train)
        fit_blend(network, data.inputs(sample), data.targets(sample), config.base_prior)
        fit_cross_blend(network, data, np.sort(draw.permutation(split.train)[:CROSS_PROTEINS]), config.cross_prior)
        standardise(network, data.inputs(sample[:STANDARDISING_PROTEINS]))
    losses, kept = train_network(network, data, split, context, seed)
    record |= {"loss_inner": losses, "epochs_kept": kept, "loss_inner_level1": level1_losses(data, inner)}
    record["loss_inner_kept"] = held_out_loss(network, data, inner, context)
    return network.cpu().eval(), record


def fit_seed(seed: int, fold: int, aspect: str) -> int:
    """A seed of its own for every fold and aspect, so that the order of fitting does not matter."""
    return 1000 * seed + 10 * fold + ASPECTS.index(aspect)


def set_priors(network: AspectStacker, data: AspectData, rows: IntArray) -> None:
    """Each term's frequency among `rows`, and among those that have one of its kept parents; as logits."""
    labels, terms = data.labels[rows], data.labels.shape[1]
    count = np.asarray(labels.sum(axis=0), np.float64).ravel()
    edges = data.layout.edges[data.aspect]
    having = np.asarray((with_parent(labels, edges) > 0).sum(axis=0), np.float64).ravel()
    asked = np.where(orphans(edges, terms), len(rows), having)
    priors = np.stack([logit((count + 0.5) / (len(rows) + 1)), logit((count + 0.5) / (asked + 1))])
    network.priors.copy_(torch.from_numpy(priors))


def fit_blend(network: AspectStacker, channels: torch.Tensor, targets: torch.Tensor, prior: float) -> None:
    """Fit the linear blend to a sample and keep it: most likely under Gaussian terms' deviations.

    Args:
        network: its blend is set and frozen.
        channels: [protein, term, channel].
        targets: [protein, term].
        prior: inverse variance of a term's bias; its slope's is `SCALE_PRIOR` times that.
    """
    device = network.blend.device
    by_term = channels.transpose(0, 1).contiguous().to(device)
    wanted = targets.t().contiguous().to(device)
    common = torch.zeros((), device=device, requires_grad=True)
    parameters = [*network.blend_parameters, common]
    optimiser = torch.optim.LBFGS(parameters, max_iter=BLEND_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(network.base(by_term) + common, wanted)
        pull = network.term_bias.square().sum() + SCALE_PRIOR * network.term_scale.square().sum()
        loss = loss + 0.5 * prior * pull / wanted.numel()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        network.term_bias.add_(common)
    for parameter in network.blend_parameters:
        parameter.requires_grad_(False)


def fit_cross_blend(network: AspectStacker, data: AspectData, rows: IntArray, prior: float) -> None:
    """Fit what the other aspects add to the kept blend, per term: most likely under a Gaussian around nothing.

    Args:
        network: with a blend; its `cross_blend` is set and frozen.
        data: labels of `rows` are read.
        rows: fitted to.
        prior: inverse variance of a weight.
    """
    if network.cross_blend is None or data.cross is None:
        return
    nn.init.zeros_(network.cross_blend)
    device = network.blend.device
    with torch.no_grad():
        known = [network.base(data.inputs(rows[start:stop]).transpose(0, 1).to(device)) for start, stop in _spans(rows)]
        offset = torch.cat(known, dim=1)  # [T, B]
    wanted, cross = data.targets(rows).t().contiguous().to(device), torch.from_numpy(data.cross[rows]).t().to(device)
    weights = network.cross_blend.requires_grad_(True)
    shift = torch.zeros(len(offset), 1, device=device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, shift], max_iter=BLEND_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(offset + weights @ cross + shift, wanted)
        loss = loss + 0.5 * prior * (weights.square().sum() + shift.square().sum()) / wanted.numel()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        network.term_bias.add_(shift[:, 0])
    weights.requires_grad_(False)


def _spans(rows: IntArray) -> list[tuple[int, int]]:
    return [(start, start + STANDARDISING_PROTEINS) for start in range(0, len(rows), STANDARDISING_PROTEINS)]


def standardise(network: AspectStacker, channels: torch.Tensor) -> None:
    """Give the network inputs of mean 0 and spread 1, measured on some training proteins."""
    with torch.no_grad():
        by_term = channels.transpose(0, 1).contiguous().to(network.centre.device)
        features = network.score_features(by_term, network.base(by_term)).flatten(0, 1)
        network.centre.copy_(features.mean(0))
        network.spread.copy_(features.std(0, correction=0).clamp_min(0.1))


def train_network(
    network: AspectStacker,
    data: AspectData,
    split: InnerSplit,
    context: StackingContext,
    seed: int,
) -> tuple[list[float], list[int]]:
    """Train and keep the mean of the best epochs' weights.

    Returns:
        the inner loss of the blend and of every epoch, and the epochs kept (0 is the blend).
    """
    config = context.config
    states: list[Tensors] = [_copied(network)]
    start = held_out_loss(network, data, split.inner, context)

    def remember(_epoch: int, _module: torch.nn.Module) -> Mapping[str, float | None]:
        states.append(_copied(network))
        context.after_epoch()
        return {}

    def sample(available: IntArray, generator: np.random.Generator) -> IntArray:
        return generator.permutation(available)[: config.proteins_per_epoch]

    records = train(
        network,
        _loss(network, data, context.device),
        split.train,
        policy=context.policy,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=seed,
        context=context,
        model=f"stacker_{data.aspect}",
        order=sample,
        validation_rows=split.inner,
        after_epoch=remember,
    )
    losses = _inner_losses(start, records)
    kept = best_epochs(losses, config.average_best)
    network.load_state_dict(_mean([states[epoch] for epoch in kept]))
    network.eval()
    return losses, kept


def best_epochs(losses: list[float], count: int) -> list[int]:
    """Among the epochs that beat the blend, the `count` of lowest loss, ascending; else the blend (0).

    The blend is never averaged with later epochs: alone it is complete, half of a network is not.
    """
    better = [epoch for epoch, loss in enumerate(losses) if loss < losses[0]]
    return sorted(sorted(better, key=lambda epoch: (losses[epoch], epoch))[:count]) or [0]


def held_out_loss(network: AspectStacker, data: AspectData, rows: IntArray, context: StackingContext) -> float | None:
    """Mean loss per pair of some rows; None without rows."""
    if len(rows) == 0:
        return None
    network.eval()
    loss = _loss(network, data, context.device)
    with torch_threads(context.threads):
        return mean_loss(loss, rows, context.config.batch_size, context.policy, context)


def level1_losses(data: AspectData, rows: IntArray) -> dict[str, float]:
    """Mean loss per pair of each level-1 model alone: what the stacker has to beat."""
    if len(rows) == 0:
        return {}
    wanted = data.targets(rows)
    return {
        name: float(
            functional.binary_cross_entropy_with_logits(
                torch.from_numpy(matrix[rows][:, data.columns].astype(np.float32)), wanted
            )
        )
        for name, matrix in data.level1.items()
    }


def _loss(network: AspectStacker, data: AspectData, device: str) -> Callable[[IntArray], torch.Tensor]:
    def loss_of_batch(rows: IntArray) -> torch.Tensor:
        with float32_only(device):
            logits = network(data.inputs(rows).to(device))
            return functional.binary_cross_entropy_with_logits(logits, data.targets(rows).to(device))

    return loss_of_batch


def _inner_losses(start: float | None, records: list[EpochRecord]) -> list[float]:
    if start is None:
        return []
    return [start, *(record.validation for record in records if record.validation is not None)]


def _copied(network: AspectStacker) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _mean(states: list[Tensors]) -> Tensors:
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
