"""How long integrated gradients of five terms take, beside captum, on a random-init ESM-2 of 8 M parameters.

captum naive integrates each term by itself, 50 steps in one batch; captum at its best has the fastest
`internal_batch_size` of those tried. All are run in turn, in one process, on one thread, and compared by
processor time, which other programs on the machine disturb less than the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients as Captum

from services.xai_worker.bench.base import SEED, Check, Figure, Material, Row, Section
from services.xai_worker.explainers.quadrature import Quadrature, mean_gradients
from shared.config.embed import EncoderConfig
from shared.nn.encoders import load_encoder
from shared.nn.encoders.base import STANDARD_RESIDUES
from shared.progress import progress

ENCODER, LENGTH, TERMS, STEPS, ROUNDS = "esm2_t6_8M", 100, 5, 50, 2
BATCHES = (1, 2, 5, 10, 25)  # rows of a forward pass, which is what captum counts, too
NAIVE_LIMIT, BEST_LIMIT, SAME, AGREES = 8.0, 2.5, 1e-3, 1e-4


@dataclass(frozen=True, slots=True)
class Task:
    """Ways to the same attributions [term, residue]."""

    ours: Callable[[], torch.Tensor]  # until the parts sum to the whole
    ours_at: Callable[[int], torch.Tensor]  # with so many nodes
    captum: Callable[[int | None], torch.Tensor]  # with an internal_batch_size; None: all steps at once
    steps: list[int]  # nodes that each run of `ours` took
    errors: list[float]  # its largest completeness error


def make_task() -> Task:
    """One protein, TERMS terms of a random head behind the pooled vector."""
    encoder = load_encoder(EncoderConfig(name=ENCODER), "cpu")
    generator = torch.Generator().manual_seed(SEED)
    weights = torch.randn(encoder.dim, TERMS, generator=generator) / encoder.dim**0.5
    sequence = "".join(np.random.default_rng(SEED).choice(list(STANDARD_RESIDUES), LENGTH))
    inputs = encoder.embed_tokens(sequence).detach()[None]
    baseline = encoder.mean_residue().detach().expand(1, LENGTH, -1).clone()

    def forward(points: torch.Tensor) -> torch.Tensor:
        return torch.tanh(encoder.forward_embedded(points) @ weights)

    def captum(batch: int | None) -> torch.Tensor:
        method = Captum(forward)
        return torch.stack([
            method.attribute(inputs, baseline, target=term, n_steps=STEPS, method="gausslegendre", internal_batch_size=batch)[0].detach().sum(-1)
            for term in range(TERMS)
        ])  # fmt: skip

    steps: list[int] = []
    errors: list[float] = []

    def ours() -> torch.Tensor:
        columns = Quadrature().gradients(lambda points: forward(points[0]), (inputs,), (baseline,), LENGTH)
        steps.append(max(column[3] for column in columns))
        found = torch.stack([(means[0] * (inputs - baseline)[0]).sum(-1) for means, *_ in columns])
        parts = zip(found, columns, strict=True)
        errors.append(max(abs(float(row.sum()) - (x - b)) / max(abs(x - b), 1e-3) for row, (_, x, b, _) in parts))
        return found

    def ours_at(count: int) -> torch.Tensor:
        line = mean_gradients(lambda p: forward(p[0]), (inputs,), (baseline,), range(TERMS), steps=count, batch=2)
        return torch.stack([(mean * (inputs - baseline)[0]).sum(-1) for (mean,) in line])

    return Task(ours, ours_at, captum, steps, errors)


def measure(material: Material) -> Section:
    """Processor seconds of each, the ratio, and how far the results are apart."""
    rounds = material.at_most(ROUNDS)
    task = make_task()
    steps = task.steps
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "gowhy": task.ours,
        "captum, whole batch": lambda: task.captum(None),
        **{f"captum, internal_batch_size {b}": (lambda b=b: task.captum(b)) for b in BATCHES},  # type: ignore[misc]
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, torch.Tensor] = {}
    with progress("speed", rounds * len(ways), "run") as bar:
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.process_time()
                results[name] = way()
                seconds[name].append(time.process_time() - started)
                bar.advance(1)
    best = {name: min(values) for name, values in seconds.items()}
    naive, own = best["captum, whole batch"], best["gowhy"]
    tuned = min(value for name, value in best.items() if name.startswith("captum"))
    scale = results["captum, whole batch"].abs().max()
    apart = float((results["gowhy"] - results["captum, whole batch"]).abs().max() / scale)
    agreement = float((task.ours_at(STEPS) - results["captum, whole batch"]).abs().max() / scale)
    rows: list[Row] = [{"way": name, "seconds": value, "times gowhy": value / own} for name, value in best.items()]
    text = (
        f"Integrated gradients of {TERMS} terms of one protein of {LENGTH} residues, {ENCODER} with random weights, "
        f"{torch.get_num_threads()} thread; fastest of {rounds} interleaved rounds, processor seconds. gowhy stopped at "
        f"{max(steps)} steps (completeness 0.01), captum took {STEPS}; largest difference {apart:.1e} of the largest value, "
        f"at the same steps {agreement:.1e}."
    )
    full = material.limit is None
    checks = [
        Check(
            "speed, captum naive",
            naive / own >= NAIVE_LIMIT if full else None,
            f"{naive / own:.1f}x",
            f">= {NAIVE_LIMIT}x",
        ),
        Check(
            "speed, captum at its best",
            tuned / own >= BEST_LIMIT if full else None,
            f"{tuned / own:.1f}x",
            f">= {BEST_LIMIT}x",
        ),
        Check("equal output", apart <= SAME, f"{apart:.1e}", f"<= {SAME}"),
        Check("captum at the same steps", agreement <= AGREES, f"{agreement:.1e}", f"<= {AGREES}"),
    ]
    bars = {"seconds": list(best.items())}
    return Section(
        "Speed",
        text,
        rows,
        checks,
        [Figure("speed", "Integrated gradients, five terms", "", "processor seconds", bars, kind="bars")],
    )
