"""The verb plan: what a config would cost in time, memory and disk, before anything is started.

Every estimate is a measured cost of finished runs on this machine, scaled by what the stage's work grows with. An
encoder that no run has used is estimated from its arithmetic and the machine's rate of matrix products. Sources of the encoders' arithmetic: 24 d^2 per layer and residue for ESM-2, 8 d (heads x head_dim) + 4 d (feed-forward)
for T5, attention scores left out.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError

from services.train.pipeline import PIPELINE
from shared.config import Config
from shared.config.embed import EncoderConfig
from shared.errors import ConfigError, MissingInput
from shared.fasta import read_fasta
from shared.nn.encoders import architecture
from shared.nn.encoders.esm2 import Esm2Shape

COSTS = "costs.jsonl"  # see shared.logs.Logger.cost
ENCODERS_SHARE = 0.4  # of the rate of plain matrix products that an encoder reaches
PROBE = 1024  # rows and columns of the matrices that measure that rate
SPARE = 0.9  # share of the machine's memory that a stage may need


@dataclass(frozen=True, slots=True)
class Workload:
    """How much there is to do."""

    train: int  # proteins
    test: int
    residues: int  # of both
    level1_terms: int
    stacker_terms: int
    models: int
    t5: float  # multiply-adds per residue
    esm2: float
    t5_dim: int
    esm2_dim: int

    @property
    def proteins(self) -> int:
        """Train and test together."""
        return self.train + self.test


# What a stage's time and disk grow with. The search of stage 1 compares every protein with every train protein, but its
# prefilter skips nearly all pairs: measured exponents lie between 0.5 and 1.4 (docs/performance.md), this is 1.25.
TIME: Mapping[str, Callable[[Workload], float]] = {
    "stage_01_parsed": lambda w: w.proteins * w.train**0.25,
    "stage_02_external_text": lambda w: w.proteins,
    "stage_03_tfidf_text": lambda w: w.proteins,
    "stage_04_external_goa_priors": lambda w: w.proteins,
    "stage_05_embeddings_t5": lambda w: w.residues * w.t5,
    "stage_06_embeddings_esm2": lambda w: w.residues * w.esm2,
    "stage_07_level1_preds": lambda w: w.proteins * w.level1_terms * w.models,
    "stage_08_stacker": lambda w: w.proteins * w.stacker_terms * w.models,
    "stage_09_submission": lambda w: w.proteins * w.level1_terms * w.models,
}
SPACE: Mapping[str, Callable[[Workload], float]] = {
    **TIME,
    "stage_01_parsed": lambda w: w.proteins,
    "stage_05_embeddings_t5": lambda w: w.proteins * w.t5_dim,
    "stage_06_embeddings_esm2": lambda w: w.proteins * w.esm2_dim,
    "stage_08_stacker": lambda w: w.proteins * w.stacker_terms,
    "stage_09_submission": lambda w: w.proteins,
}

ENCODING: Mapping[str, Callable[[Workload], float]] = {
    "stage_05_embeddings_t5": lambda w: w.t5,
    "stage_06_embeddings_esm2": lambda w: w.esm2,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished run: its size, and stage -> cost. Stages that took no measurable time have none."""

    run_id: str
    workload: Workload
    seconds: Mapping[str, float]
    memory: Mapping[str, float]  # bytes at the peak
    disk: Mapping[str, int]  # bytes of its outputs


@dataclass(frozen=True, slots=True)
class Estimate:
    """One stage; None where no finished run has measured it."""

    stage: str
    seconds: float | None
    memory: float | None
    disk: float | None
    source: str  # the run that was scaled


def estimates(workload: Workload, runs: Sequence[Measured]) -> list[Estimate]:
    """Every stage of the pipeline, from the largest run that measured it."""
    return [_estimate(stage.id, workload, runs) for stage in PIPELINE]


def _estimate(stage: str, workload: Workload, runs: Sequence[Measured]) -> Estimate:
    timed = [run for run in runs if stage in run.seconds and TIME[stage](run.workload) > 0]
    if not timed:
        return Estimate(stage, None, None, None, "")
    nearest = max(timed, key=lambda run: TIME[stage](run.workload))
    seconds = nearest.seconds[stage] * TIME[stage](workload) / TIME[stage](nearest.workload)
    source = nearest.run_id
    encoder = ENCODING.get(stage)
    if encoder is not None and encoder(workload) not in {encoder(run.workload) for run in timed}:
        # A small encoder needs far more time per multiplication than a large one: not a scale for it.
        seconds = encoder(workload) * workload.residues / (ENCODERS_SHARE * matrix_rate())
        source = "matrix products"
    space = SPACE[stage](workload) / max(SPACE[stage](nearest.workload), 1)
    return Estimate(
        stage=stage,
        seconds=seconds,
        memory=_memory({run.workload.proteins: run.memory[stage] for run in runs if stage in run.memory}, workload),
        disk=nearest.disk.get(stage, 0) * space,
        source=source,
    )


def _memory(measured: Mapping[int, float], workload: Workload) -> float | None:
    """On the line through the smallest and the largest run; one size alone says nothing of growth."""
    if len(measured) < 2:
        return None
    few, many = min(measured), max(measured)
    slope = max(0.0, (measured[many] - measured[few]) / (many - few))
    return measured[many] + slope * max(0, workload.proteins - many)


@cache
def matrix_rate() -> float:
    """Multiply-adds per second of float32 matrix products on this machine's processor."""
    left = torch.ones(PROBE, PROBE)
    left @ left
    begun = time.perf_counter()
    repeats = 4
    for _ in range(repeats):
        left @ left
    return float(repeats * PROBE**3 / (time.perf_counter() - begun))


def workload_of(config: Config, *, train: int | None, test: int | None, residues: float | None) -> Workload:
    """Count the config's proteins, or take the numbers given.

    Args:
        config: names the input files, terms, models and encoders.
        train: proteins; None counts `data.train_fasta`.
        test: proteins; None counts `data.test_fasta`.
        residues: of a mean protein; None measures it.

    Raises:
        MissingInput: a file is not there and its number is not given.
    """
    total, counted, found = 0, 0, {}
    for key, given in (("train_fasta", train), ("test_fasta", test)):
        if given is not None:
            found[key] = given
            continue
        path = getattr(config.data, key)
        if path is None or not Path(path).is_file():
            raise MissingInput(
                f"data.{key} is not there, so its proteins cannot be counted",
                where=str(path or config.data.name),
                remedy=f"Give --{key.removesuffix('_fasta')}-proteins N and --mean-residues L, or the file",
            )
        lengths = [len(record.sequence) for record in read_fasta(Path(path))]
        found[key], total, counted = len(lengths), total + sum(lengths), counted + len(lengths)
    if residues is None and counted == 0:
        raise MissingInput("no proteins to measure", remedy="Give --mean-residues L, for example 400")
    mean = residues if residues is not None else total / counted
    proteins = found["train_fasta"] + found["test_fasta"]
    return replace(
        _of_config(config), train=found["train_fasta"], test=found["test_fasta"], residues=round(proteins * mean)
    )


def _of_config(config: Config) -> Workload:
    return Workload(
        train=0, test=0, residues=0, level1_terms=config.level1.max_terms,
        stacker_terms=min(config.stacker.terms, config.level1.max_terms), models=len(config.level1.models),
        t5=arithmetic(config.embed.t5), esm2=arithmetic(config.embed.esm2),
        t5_dim=dimension(config.embed.t5), esm2_dim=dimension(config.embed.esm2),
    )  # fmt: skip


def arithmetic(encoder: EncoderConfig | None) -> float:
    """Multiply-adds per residue; 0 without an encoder.

    Raises:
        ConfigError: there is no such encoder.
    """
    if encoder is None:
        return 0.0
    shape = architecture(encoder).shape
    if isinstance(shape, Esm2Shape):
        return 12.0 * shape.layers * shape.dim**2
    return float(shape.layers * shape.dim * (4 * shape.heads * shape.head_dim + 2 * shape.feed_forward))


def dimension(encoder: EncoderConfig | None) -> int:
    """Numbers per protein."""
    return 0 if encoder is None else architecture(encoder).shape.dim


def measured_runs(out: Path) -> list[Measured]:
    """Every finished run under a folder that logged what its stages cost, smallest first."""
    found = (
        measured(folder.parent) for folder in sorted(out.glob("*/manifest.json")) if not folder.parent.is_symlink()
    )
    return sorted((run for run in found if run is not None), key=lambda run: run.workload.proteins)


def measured(run_folder: Path) -> Measured | None:
    """What a run cost; None for one that logged nothing, or was made by another release."""
    try:
        lines = (run_folder / "logs" / COSTS).read_text(encoding="utf-8").splitlines()
        config = Config.model_validate_json((run_folder / "config_resolved.json").read_bytes())
        parts = [pd.read_feather(run_folder / f"parsed/{part}_seq.feather") for part in ("train", "test")]
        stages = json.loads((run_folder / "manifest.json").read_bytes())["stages"]
    except (FileNotFoundError, ValidationError):
        return None
    costs = [cost for line in lines if (cost := _parsed(line)) is not None]
    seconds = {cost["stage"]: float(cost["seconds"]) for cost in costs}
    memory = {cost["stage"]: float(cost["peak_bytes"]) for cost in costs if cost["peak_bytes"] is not None}
    workload = replace(
        _of_config(config),
        train=len(parts[0]),
        test=len(parts[1]),
        residues=int(sum(part["sequence"].str.len().sum() for part in parts)),
    )
    disk = {stage["id"]: sum(output["size"] for output in stage["outputs"]) for stage in stages}
    return Measured(run_folder.name, workload, seconds, memory, disk)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        cost = json.loads(line)
    except ValueError:
        return None  # a killed run tears its last line
    return cost if isinstance(cost, dict) and {"stage", "seconds", "peak_bytes"} <= set(cost) else None


def check(found: Iterable[Estimate], *, memory: int, disk: int) -> None:
    """Refuse a plan that cannot work.

    Raises:
        ConfigError: a stage needs more memory, or all of them more disk, than there is.
    """
    found = list(found)
    heavy = max((e for e in found if e.memory is not None), key=lambda e: e.memory or 0, default=None)
    if heavy is not None and (heavy.memory or 0) > SPARE * memory:
        raise ConfigError(
            f"{heavy.stage} would need about {gib(heavy.memory)} of memory and this machine has {gib(memory)}",
            where="plan",
            remedy="Lower level1.max_terms, name fewer models in level1.models, or use a larger machine",
        )
    total = sum(e.disk or 0 for e in found)
    if total > disk:
        raise ConfigError(
            f"the run would take about {gib(total)} and {gib(disk)} are free", where="plan",
            remedy="Set paths.out to a larger disk",
        )  # fmt: skip


def machine(out: Path) -> tuple[int, int]:
    """Bytes of memory of this machine, and bytes free where `out` is or will be."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    there = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    return memory, shutil.disk_usage(there).free


def table(workload: Workload, found: Sequence[Estimate]) -> str:
    """For a person."""
    lines = [
        f"{workload.train} train and {workload.test} test proteins, {workload.residues} residues; "
        f"{workload.level1_terms} level-1 terms x {workload.models} models, {workload.stacker_terms} stacker terms",
        f"{'stage':30} {'time':>10} {'memory':>10} {'disk':>10}  scaled from",
    ]
    lines += [
        f"{e.stage:30} {clock(e.seconds):>10} {gib(e.memory):>10} {gib(e.disk):>10}  {e.source or 'not measured'}"
        for e in found
    ]
    known = [e.memory for e in found if e.memory is not None]
    total = f"{clock(sum(e.seconds or 0 for e in found)):>10} {gib(max(known, default=None)):>10}"
    lines.append(f"{'all':30} {total} {gib(sum(e.disk or 0 for e in found)):>10}")
    if not known:
        lines.append("Memory is not estimated: finish two runs of different size first, for example demo and tiny.")
    return "\n".join(lines)


def document(workload: Workload, found: Sequence[Estimate]) -> dict[str, Any]:
    """For a program; seconds and bytes."""
    return {"workload": asdict(workload), "stages": [asdict(e) for e in found]}


def gib(size: float | None) -> str:
    """Bytes as GiB."""
    return "?" if size is None else f"{size / (1 << 30):.2f} GiB"


def clock(seconds: float | None) -> str:
    """Seconds as the unit that a person would use."""
    if seconds is None:
        return "?"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
