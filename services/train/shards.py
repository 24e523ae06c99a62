"""Embedding of files far larger than memory: length-sorted shards on disk, each finished or absent.

A folder holds the plan (`plan.json`, and where each protein is: `index.npy`), one file per finished shard and,
when all are there, `result.json`. Who computes a shard, in which order, and after how many crashes does not
show in its bytes, so that any number of processes on any number of machines may work in one folder: a loop
here, one task of a Slurm array (`--shard i/n`), or actors of Ray (`services.train.shards_ray`).

A shard file is two .npy arrays, one after the other: ids [n] as bytes, vectors float16 [n, dim].
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.train.embedding import half
from shared import atomic
from shared.config.embed import EncoderConfig
from shared.digests import sha256_file
from shared.errors import ConfigError, IntegrityError, from_os_error
from shared.fasta import index_fasta, records_at
from shared.nn.encoders import Encoder, load_encoder
from shared.progress import progress

RESIDUES_PER_SHARD = 2_000_000
PLAN, INDEX, RESULT = "plan.json", "index.npy", "result.json"
OFFSET, SIZE, LENGTH = range(3)  # columns of the index


@dataclass(frozen=True, slots=True)
class Plan:
    """What a folder is for; every worker makes or reads the same one."""

    folder: Path
    fasta: Path
    index: npt.NDArray[np.int64]  # [protein, 3]: first byte, bytes, residues; longest first
    bounds: npt.NDArray[np.int64]  # [shards + 1] rows of the index
    encoder: dict[str, Any]  # that every vector is made with, as `encoder_identity`

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.bounds) - 1

    def path(self, number: int) -> Path:
        """Where a finished shard is."""
        return self.folder / f"shard-{number:07d}.npy"

    def missing(self, part: tuple[int, int] = (0, 1)) -> list[int]:
        """Shards not yet finished, of every n-th from the i-th on."""
        first, step = part
        return [number for number in range(first, len(self), step) if not self.path(number).exists()]

    def residues(self, number: int) -> int:
        """Residues of a shard."""
        return int(self.index[self.bounds[number] : self.bounds[number + 1], LENGTH].sum())


def encoder_identity(encoder: Encoder) -> dict[str, Any]:
    """All that may change a bit of a vector."""
    record = encoder.describe()
    kept = {key: record[key] for key in ("name", "arch", "weights_sha256", "options")}
    return {**kept, "torch": torch.__version__, "device": encoder.device.type, "engine": encoder.engine}


def make_plan(folder: Path, fasta: Path, encoder: Encoder, residues_per_shard: int = RESIDUES_PER_SHARD) -> Plan:
    """Index the proteins, and write the plan or check the one that is there.

    Longest first, equal lengths in the file's order; a shard takes proteins until it has `residues_per_shard`.
    Memory: 50 bytes per protein.

    Raises:
        MissingInput: no such file.
        DataError: not a plain FASTA file of valid proteins.
        ConfigError: the folder was begun with another file, encoder or shard size, or on another kind of machine.
    """
    wanted = {
        "fasta_sha256": _digest(fasta),
        "residues_per_shard": residues_per_shard,
        "encoder": encoder_identity(encoder),
    }
    plan_file, index_file = folder / PLAN, folder / INDEX
    if not plan_file.exists():
        with atomic.atomic_path(index_file) as temporary, temporary.open("wb") as file:
            np.save(file, _index(fasta))
        atomic.write_json(plan_file, wanted)
    written = json.loads(plan_file.read_text(encoding="utf-8"))
    differing = [key for key in wanted if written.get(key) != json.loads(json.dumps(wanted[key]))]
    if differing:
        shown = ", ".join(f"{key} was {written.get(key)}, now {wanted[key]}" for key in differing)
        raise ConfigError(
            f"{folder} was begun with something else: {shown}",
            where=str(plan_file),
            remedy="Choose another --out folder, or repeat the first command; GOWHY_KERNELS=off makes machines alike",
        )
    index = np.load(index_file, mmap_mode="r", allow_pickle=False)
    return Plan(folder, fasta, index, _bounds(index[:, LENGTH], residues_per_shard), written["encoder"])


def embed_shard(plan: Plan, number: int, encoder: Encoder) -> Path:
    """Compute one shard and publish it; the one function that every engine calls.

    Raises:
        IntegrityError: the FASTA file changed, or this worker's encoder is not the plan's.
        DataError: a vector is not finite in float16.
        CannotWrite: the disk is full or read-only.
    """
    if encoder_identity(encoder) != plan.encoder:
        raise IntegrityError(
            f"this worker computes with {encoder_identity(encoder)}, the plan with {plan.encoder}",
            where=str(plan.folder),
            remedy="Use one kind of machine and environment; GOWHY_KERNELS=off does without compiled code",
        )
    rows = plan.index[plan.bounds[number] : plan.bounds[number + 1]]
    records = list(records_at(plan.fasta, ((int(row[OFFSET]), int(row[SIZE])) for row in rows)))
    lengths = [len(record.sequence) for record in records]
    if lengths != rows[:, LENGTH].tolist():
        raise IntegrityError("the proteins are not those of the plan", where=str(plan.fasta), remedy="Start again")
    sequences = [record.sequence for record in records]
    with atomic.atomic_path(plan.path(number)) as temporary, temporary.open("wb") as file:
        np.save(file, np.array([record.id.encode() for record in records]))
        np.save(file, half(encoder.embed(sequences), sequences))
    return plan.path(number)


def read_shard(path: Path) -> tuple[list[str], npt.NDArray[np.float16]]:
    """Ids [n] and vectors [n, dim] of a finished shard.

    Raises:
        IntegrityError: not such a file.
    """
    try:
        with path.open("rb") as file:
            ids, vectors = (np.load(file, allow_pickle=False) for _ in range(2))
    except (ValueError, EOFError) as error:
        raise IntegrityError(f"not a shard: {error}", where=str(path), remedy="Delete it and run again") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    return [name.decode() for name in ids.tolist()], vectors


def run_local(plan: Plan, encoder: Encoder, part: tuple[int, int] = (0, 1)) -> int:
    """Compute the missing shards of a part in this process; how many."""
    todo = plan.missing(part)
    own = range(part[0], len(plan), part[1])
    total, left = (sum(map(plan.residues, numbers)) for numbers in (own, todo))
    with progress(f"embed with {encoder.name}", total, "residues", total - left) as bar:
        for number in todo:
            embed_shard(plan, number, encoder)
            bar.advance(plan.residues(number))
    return len(todo)


def finish(plan: Plan) -> bool:
    """When all shards are there, say so in `result.json` with their digests, and clear what crashes left."""
    if plan.missing():
        return False
    if not (plan.folder / RESULT).exists():
        files = {plan.path(number).name: sha256_file(plan.path(number)) for number in range(len(plan))}
        atomic.write_json(plan.folder / RESULT, {"proteins": len(plan.index), "shards": files})
    for leftover in plan.folder.glob(".*.shard-*.npy"):
        leftover.unlink(missing_ok=True)
    return True


def parse_part(text: str) -> tuple[int, int]:
    """`i/n`, i from 0, as `$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT`.

    Raises:
        ValueError: not 0 <= i < n.
    """
    first, _, count = text.partition("/")
    part = int(first), int(count)
    if not 0 <= part[0] < part[1]:
        raise ValueError(text)
    return part


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What a worker elsewhere needs to load the same encoder."""

    config: EncoderConfig
    device: str

    def load(self) -> Encoder:
        """The encoder, on this machine."""
        return load_encoder(self.config, self.device)


def _digest(fasta: Path) -> str:
    try:
        return sha256_file(fasta)
    except OSError as error:
        raise from_os_error(error, str(fasta)) from error


def _index(fasta: Path) -> npt.NDArray[np.int64]:
    """[protein, 3], longest first."""
    flat = array("q", _flat(index_fasta(fasta)))
    found = np.frombuffer(flat, np.int64).reshape(-1, 3)
    return found[np.argsort(-found[:, LENGTH], kind="stable")]


def _flat(places: Iterable[tuple[int, int, int]]) -> Iterator[int]:
    for place in places:
        yield from place


def _bounds(lengths: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.int64]:
    """Where shards begin: a new one starts with the first protein that finds the last one full."""
    before = np.cumsum(lengths) - lengths
    starts = np.unique(before // budget, return_index=True)[1]
    return np.append(starts, len(lengths)).astype(np.int64)
