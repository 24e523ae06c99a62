"""The one gradient-descent loop: optimiser groups, precision, clipping, accumulation, seeds, metrics.

The MLP, the CNN and the stacker differ in their network and in their loss; everything else that
decides a fit is here and in `TrainingConfig`. `train(module, loss_of_batch, rows, ...)` draws no
random number from, and leaves no trace in, the process's global generators.

The batches of a step may be dealt over the processes of a `Team`. Alone, a team changes nothing, so there is one
path: what is drawn for a batch follows from its place, and sums are over the batches of all processes.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from services.train.team import Team
from shared.config.training import TrainingConfig
from shared.errors import GowhyError
from shared.logs import Logger
from shared.models.features import IntArray
from shared.nn.runtime import torch_threads

LossOfBatch = Callable[[IntArray], torch.Tensor]
Order = Callable[[IntArray, np.random.Generator], IntArray]
AfterEpoch = Callable[[int, nn.Module], Mapping[str, float | None]]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TrainingContext(Protocol):
    """Where a fit runs and whom it tells; `FitContext` is one."""

    @property
    def device(self) -> str:
        """A torch device such as `cpu` or `cuda:0`."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads of the fit."""
        ...

    @property
    def log(self) -> Logger:
        """Receives each epoch's metrics."""
        ...

    @property
    def stage(self) -> str:
        """Stage id in the logs."""
        ...

    @property
    def fold(self) -> int:
        """Held-out fold in the logs; -1 for none."""
        ...

    @property
    def team(self) -> Team:
        """The processes that make the fit, each with a context of its own."""
        ...


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Mean losses of one epoch; `validation` is None without held-out rows."""

    epoch: int
    train: float
    validation: float | None


def shuffled(rows: IntArray, generator: np.random.Generator) -> IntArray:
    """Every row once, in random order: the default order of an epoch."""
    return generator.permutation(rows)


@contextlib.contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed torch inside the block and restore its generators after it."""
    resolved = torch.device(device)
    devices = [resolved] if resolved.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def build(make: Callable[[], ModuleT], *, seed: int, device: str) -> ModuleT:
    """Construct a module on the CPU with seeded initial weights, then move it to `device`."""
    with seeded(seed):
        module = make()
    return module.to(device)


def optimiser_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only: shrinking biases, gains and embeddings harms the fit."""
    embeddings = {
        id(p) for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters(recurse=False)
    }
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings]
    kept = {id(p) for p in decayed}
    rest = [p for p in parameters if id(p) not in kept]
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimiser(module: nn.Module, policy: TrainingConfig, learning_rate: float) -> torch.optim.Optimizer:
    """The policy's optimiser over `optimiser_groups`."""
    groups = optimiser_groups(module, policy.weight_decay)
    if policy.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)  # one pass over the weights instead of ten


def learning_rate_factor(policy: TrainingConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then the policy's schedule."""
    warmup = round(policy.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if policy.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class _Loop:
    """What stays the same over the epochs of one fit."""

    module: nn.Module
    loss_of_batch: LossOfBatch
    optimiser: torch.optim.Optimizer
    policy: TrainingConfig
    context: TrainingContext
    model: str
    seed: int
    draws: np.random.Generator | None

    def step(self, group: list[IntArray], learning_rate: float, epoch: int, number: int) -> float:
        """Optimiser step `number` over some batches, each weighted by its size; returns their summed loss."""
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        size = sum(len(batch) for batch in group)
        team, losses = self.context.team, np.zeros(len(group))
        for index, batch in enumerate(group):
            if not team.has(index):
                continue
            self._seed_batch(number, index)
            with _autocast(self.policy, self.context.device):
                loss = self.loss_of_batch(batch)
            losses[index] = float(loss.detach())
            torch.autograd.backward(loss * (len(batch) / size))
        values = team.sum(losses).tolist()
        wrong = [value for value in values if not math.isfinite(value)]
        if wrong:
            raise GowhyError(
                f"the training loss is {wrong[0]}",
                where=f"{self.model}, epoch {epoch}",
                remedy="Lower the model's learning_rate, or set training.clip_norm",
            )
        team.sum_gradients(self.module)
        if self.policy.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.policy.clip_norm)
        self.optimiser.step()
        return weighted_sum(values, group)

    def _seed_batch(self, step: int, index: int) -> None:
        """Draw for a batch what follows from its place alone: another process may have the one before it."""
        if self.policy.accumulate == 1:
            return  # every batch is this process's: the generators run on
        torch_seed, own_seed = np.random.SeedSequence([self.seed, step, index]).generate_state(2, np.uint64)
        torch.manual_seed(int(torch_seed))
        if self.draws is not None:
            self.draws.bit_generator.state = np.random.default_rng(own_seed).bit_generator.state

    def watch(self, rows: IntArray, batch_size: int) -> float:
        """Mean loss over rows without dropout."""
        self.module.eval()
        return mean_loss(self.loss_of_batch, rows, batch_size, self.policy, self.context)

    def close_epoch(
        self, epoch: int, train_loss: float, validation: float | None, after_epoch: AfterEpoch | None
    ) -> EpochRecord:
        """Call back and log; the module is left in evaluation mode."""
        self.module.eval()
        metrics: dict[str, float | None] = {"loss/train": train_loss, "loss/val": validation}
        if after_epoch is not None:
            with torch.no_grad():
                metrics.update(after_epoch(epoch, self.module))
        self.context.log.epoch(metrics, epoch=epoch, stage=self.context.stage, model=self.model, fold=self.context.fold)
        return EpochRecord(epoch, train_loss, validation)


def train(
    module: nn.Module,
    loss_of_batch: LossOfBatch,
    rows: IntArray,
    *,
    policy: TrainingConfig,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    context: TrainingContext,
    model: str,
    order: Order = shuffled,
    validation_rows: IntArray | None = None,
    after_epoch: AfterEpoch | None = None,
    draws: np.random.Generator | None = None,
    after_step: Callable[[int], None] = lambda _rows: None,
) -> list[EpochRecord]:
    """Fit `module` in place and leave it in evaluation mode; with other processes, the same module in each.

    Args:
        module: already on `context.device`, its initial weights seeded (see `build`).
        loss_of_batch: mean loss (scalar, differentiable) of the given rows; runs the module itself.
        rows: what may be trained on.
        policy: optimiser, precision, clipping, accumulation and schedule.
        epochs: passes over what `order` returns.
        batch_size: rows per call of `loss_of_batch`; `policy.accumulate` calls make one step.
        learning_rate: the peak of the schedule.
        seed: of the order and of dropout.
        context: device, threads, and where metrics go.
        model: name in the logs.
        order: the rows of an epoch in order (`SAMPLERS`), drawn anew every epoch; may repeat or leave out rows.
        validation_rows: only watched (`loss/val`), never used for a decision here.
        after_epoch: called with the epoch (from 0) and the module in evaluation mode, outside autograd;
            its metrics are logged with the epoch's losses. It may keep copies of weights.
        draws: what `loss_of_batch` draws from beside torch's generator, when in training mode (a PCG64).
        after_step: hears how many rows each optimiser step took.

    Raises:
        GowhyError: there are no rows, or the loss is not finite.
        IntegrityError: processes ended with different weights.
        TryAgain: another process ended.
    """
    if rows.size == 0:
        raise GowhyError(
            f"{model} has no rows to fit",
            where=context.stage,
            remedy="Lower split.val_fraction or give more annotated proteins",
        )
    generator = np.random.default_rng(seed)
    context.team.same_start(module)
    optimiser = make_optimiser(module, policy, learning_rate)
    loop = _Loop(module, loss_of_batch, optimiser, policy, context, model, seed, draws)
    records: list[EpochRecord] = []
    with torch_threads(context.threads), seeded(seed, context.device):
        step = 0
        for epoch in range(epochs):
            batches = split_batches(order(rows, generator), batch_size)
            groups = [batches[start : start + policy.accumulate] for start in range(0, len(batches), policy.accumulate)]
            steps = step + len(groups) * (epochs - epoch)  # an order may have another length every epoch
            module.train()
            total = 0.0
            for group in groups:
                total += loop.step(group, learning_rate * learning_rate_factor(policy, step, steps), epoch, step)
                step += 1
                after_step(sum(map(len, group)))
            watched = (
                None if validation_rows is None or not len(validation_rows) else loop.watch(validation_rows, batch_size)
            )
            records.append(loop.close_epoch(epoch, total / sum(map(len, batches)), watched, after_epoch))
    context.team.check_same_end(module, model)
    return records


def split_batches(rows: IntArray, batch_size: int) -> list[IntArray]:
    """Consecutive batches; the last may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def mean_loss(
    loss_of_batch: LossOfBatch, rows: IntArray, batch_size: int, policy: TrainingConfig, context: TrainingContext
) -> float:
    """Mean loss over rows without gradient; the caller puts the module into evaluation mode."""
    batches = split_batches(rows, batch_size)
    losses = np.zeros(len(batches))
    with torch.no_grad():
        for index, batch in enumerate(batches):
            if context.team.has(index):
                with _autocast(policy, context.device):
                    losses[index] = float(loss_of_batch(batch))
    return weighted_sum(context.team.sum(losses).tolist(), batches) / len(rows)


def weighted_sum(losses: Sequence[float], batches: Sequence[IntArray]) -> float:
    """Mean losses of batches, times their sizes, added in the batches' order."""
    total = 0.0
    for loss, batch in zip(losses, batches, strict=True):
        total += loss * len(batch)
    return total


def _autocast(policy: TrainingConfig, device: str) -> torch.autocast:
    enabled = policy.precision == "bfloat16" or (policy.precision == "auto" and multiplies_bfloat16(device))
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled)


@functools.cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether the hardware does; elsewhere bfloat16 is slower than float32."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
