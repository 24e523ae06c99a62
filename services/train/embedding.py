"""Stages 5 and 6: sequences -> vectors, each distinct sequence once, resumable after every batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.train.stage import StageContext
from services.train.vector_cache import Vector, VectorCache
from shared.config.embed import RANDOM_INIT, EncoderConfig
from shared.digests import digest_of
from shared.errors import DataError
from shared.nn.encoders import Encoder, load_encoder

PARTS = ("train", "test")


def embed_modality(ctx: StageContext, modality: str, config: EncoderConfig | None) -> None:
    """Write a modality's train and test vectors, float16 [protein, dim] in row order, and its encoder's record.

    Args:
        ctx: declares `parsed/{train,test}_seq.feather` and the three outputs.
        modality: `t5` or `esm2`, as in the artefacts' names.
        config: None leaves the modality absent: arrays of shape (n, 0).

    Raises:
        DataError: a vector is not finite in float16.
        GowhyError: as `load_encoder`.
    """
    sequences = {part: [str(s) for s in ctx.read(f"parsed/{part}_seq.feather")["sequence"]] for part in PARTS}
    if config is None:
        for part in PARTS:
            ctx.create_array(f"features/{part}_embeds_{modality}.npy", (len(sequences[part]), 0), "<f2")
        ctx.write(f"features/encoder_{modality}.json", {"absent": True})
        return
    torch.set_num_threads(ctx.threads)
    encoder = load_encoder(config, ctx.device)
    if RANDOM_INIT.fullmatch(encoder.weights_label):
        ctx.log.warning(
            f"{modality}: {encoder.name} has random weights, nothing learned", weights=encoder.weights_label
        )
    distinct = {sequence_key(sequence): sequence for part in PARTS for sequence in sequences[part]}
    with open_cache(encoder, ctx.cache) as cache:
        fill_cache(ctx, encoder, cache, distinct, config.tokens_per_batch)
        for part in PARTS:
            rows = ctx.create_array(
                f"features/{part}_embeds_{modality}.npy", (len(sequences[part]), encoder.dim), "<f2"
            )
            for row, sequence in enumerate(sequences[part]):
                rows[row] = cache[sequence_key(sequence)]
    ctx.write(f"features/encoder_{modality}.json", encoder.describe())


def sequence_key(sequence: str) -> bytes:
    """What a vector is filed under, beside its encoder: 32 bytes."""
    return hashlib.sha256(sequence.encode()).digest()


def open_cache(encoder: Encoder, cache: Path) -> VectorCache:
    """The folder of vectors made by exactly this encoder.

    Torch's version, the kind of device and the compiled code are part of its name: each may change the last bit.
    """
    record = encoder.describe()
    about: dict[str, Any] = {key: record[key] for key in ("arch", "weights_sha256", "options")}
    about |= {"torch": torch.__version__, "device": encoder.device.type, "engine": encoder.engine}
    return VectorCache(cache / "embeddings" / digest_of("embeddings", about)[:32], encoder.dim, about)


def fill_cache(
    ctx: StageContext, encoder: Encoder, cache: VectorCache, distinct: dict[bytes, str], tokens_per_batch: int
) -> None:
    """Embed what is not cached yet, and save after each batch.

    The batches are those of the whole list, whatever is cached: where a vector's last bit depends on
    its batch (a GPU), a resumed run then repeats a half-saved batch as it was.
    """
    known = cache.load(distinct)
    if cache.damaged:
        ctx.log.warning("damaged cached vectors are made again", count=cache.damaged, where=str(cache.folder))
    total = sum(map(len, distinct.values()))
    done = sum(len(distinct[key]) for key in known)
    with ctx.progress(f"embed with {encoder.name}", total, "residues", done) as bar:
        for batch in batches(distinct, tokens_per_batch):
            missing = [key for key in batch if key not in known]
            if missing:
                keys = missing if encoder.order_free else batch
                sequences = [distinct[key] for key in keys]
                cache.append(keys, half(encoder.embed(sequences), sequences))
                bar.advance(sum(len(distinct[key]) for key in missing))
    cache.load(distinct)


def batches(distinct: dict[bytes, str], tokens: int) -> Iterator[list[bytes]]:
    """Longest first, ties by key, up to `tokens` residues each (at least one sequence)."""
    batch: list[bytes] = []
    size = 0
    for key in sorted(distinct, key=lambda key: (-len(distinct[key]), key)):
        length = len(distinct[key])
        if batch and size + length > tokens:
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += length
    if batch:
        yield batch


def half(vectors: np.ndarray[Any, np.dtype[np.float32]], sequences: Sequence[str]) -> Vector:
    """Round to float16.

    Raises:
        DataError: a value is not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):
        rounded = vectors.astype(np.float16)
    bad = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
    if len(bad):
        sequence = sequences[bad[0]]
        raise DataError(
            f"the embedding of a sequence of {len(sequence)} residues ({sequence[:20]}...) is not finite in float16",
            where="encoder",
            remedy="Check the encoder's weights; real ones stay below 100",
        )
    return rounded
