"""Train a small ESM-2 by masked-language modelling on the sequences of FASTA files.

Every step's proteins, crops and masks follow from the seed and the step's number alone, and the network has no
dropout, so a training that was killed goes on from its last save to the same bytes. The model is transformers'
`EsmForMaskedLM`; what is kept is its encoder, in float16, as the embedding stages read it.

Source of the masks: ESM-2 (Lin et al. 2023), after BERT: of the chosen residues 80 % are masked, 10 % are replaced
by a random one, 10 % stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import EsmForMaskedLM

from services.train.models.training import build, learning_rate_factor, make_optimiser
from shared.atomic import atomic_path, write_bytes, write_json
from shared.config import PretrainConfig
from shared.digests import digest_of, digest_of_lines, sha256_file
from shared.env import relevant_versions
from shared.errors import ConfigError, DataError, GowhyError, IntegrityError
from shared.fasta import read_unique_fasta
from shared.nn.encoders import ENCODERS
from shared.nn.encoders.esm2 import CLS, EOS, PAD, TOKENS, Esm2Network, Esm2Shape, esm_config
from shared.nn.runtime import torch_threads
from shared.progress import progress

STATE, MODEL, CONFIG, CARD, RECORD = "state.pth", "model.safetensors", "config.json", "README.md", "training.json"
MASK = TOKENS.index("<mask>")
RESIDUES = np.array([TOKENS.index(letter) for letter in "LAGVSERTIDPKQNFYMHWC"])  # what a random residue may be
IGNORED = -100  # transformers' label of a place that enters no loss
MASKED, REPLACED = 0.8, 0.1  # of the chosen residues
HELD_OUT_STREAM, TRAINED_STREAM = 0, 1
WATCHED_ROWS = 32
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens as the network reads them and what they were, int64 [protein, token]; `IGNORED` where nothing is asked."""

    tokens: torch.Tensor
    attention: torch.Tensor
    labels: torch.Tensor


@dataclass(slots=True)
class Training:
    """A training between two steps."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    losses: list[dict[str, float | int | None]] = field(default_factory=list)


def pretrain(fasta: Sequence[Path], out: Path, config: PretrainConfig, *, device: str, threads: int) -> dict[str, Any]:
    """Train, or go on with what was begun in `out`, and write the encoder there.

    Args:
        fasta: sequences; of proteins that stand twice the first counts.
        out: receives the encoder, its card and its record; `state.pth` while it is not finished.
        config: what is trained and how.
        device: a torch device.
        threads: of the CPU; sums depend on it.

    Returns:
        the record that is also `training.json`.

    Raises:
        ConfigError: not an ESM-2, or one that is too large.
        DataError: too few sequences.
        IntegrityError: `out` holds a training with other settings, data or software.
        GowhyError: the loss is not finite.
    """
    shape = shape_of(config)
    sequences = [encode(record.sequence) for path in fasta for record in read_unique_fasta(path)]
    data = digest_of_lines([" ".join(map(str, tokens.tolist())) for tokens in sequences])
    held_out, trained = split(len(sequences), config)
    key = digest_of("pretrain", config.model_dump(mode="json"), data, relevant_versions(), threads, device)
    record_path = out / RECORD
    if record_path.is_file():
        record: dict[str, Any] = json.loads(record_path.read_bytes())
        if record.get("key") != key:
            raise _other(record_path)
        return record
    out.mkdir(parents=True, exist_ok=True)
    with torch_threads(threads):
        training = begin(shape, config, device)
        resume(training, out / STATE, key)
        with progress("pretrain", config.steps, "step", training.step) as bar:
            while training.step < config.steps:
                upto = min(config.steps, (training.step // config.save_every + 1) * config.save_every)
                run_steps(training, upto, [sequences[row] for row in trained], config, bar.advance)
                training.losses[-1]["held_out"] = watch(training.model, [sequences[row] for row in held_out], config)
                save(training, out / STATE, key)
        return finish(training, out, config, key, data=data, proteins=len(trained), device=device, threads=threads)


def shape_of(config: PretrainConfig) -> Esm2Shape:
    """The encoder's shape.

    Raises:
        ConfigError: unknown, not an ESM-2, or larger than `largest_mb` in float16.
    """
    entry = ENCODERS.get(config.encoder)
    if entry is None or not isinstance(entry.shape, Esm2Shape):
        known = ", ".join(name for name, one in ENCODERS.items() if isinstance(one.shape, Esm2Shape))
        raise ConfigError(f"{config.encoder!r} is no ESM-2", where="pretrain.encoder", remedy=f"Known: {known}")
    # A layer has 12 dim^2 weights; biases, norms and the embeddings are counted too.
    parameters = entry.shape.layers * (12 * entry.shape.dim**2 + 13 * entry.shape.dim) + 35 * entry.shape.dim
    if 2 * parameters > config.largest_mb * 1e6:
        raise ConfigError(
            f"{config.encoder} takes {2 * parameters / 1e6:.1f} MB in float16, more than {config.largest_mb:g}",
            where="pretrain.encoder",
            remedy="Choose a smaller one, or raise pretrain.largest_mb",
        )
    return entry.shape


def encode(sequence: str) -> IntArray:
    """Tokens of the residues, without those around them."""
    table = Esm2Network.alphabet
    return np.asarray(table.encode(sequence), np.int64)


def split(count: int, config: PretrainConfig) -> tuple[IntArray, IntArray]:
    """Rows that are only watched, and rows that are trained on.

    Raises:
        DataError: nothing is left to train on.
    """
    order = np.random.default_rng([config.seed, HELD_OUT_STREAM]).permutation(count)
    held_out, trained = np.sort(order[: config.held_out]), np.sort(order[config.held_out :])
    if not len(trained):
        raise DataError(
            f"{count} sequences, of which {config.held_out} are held out",
            where="--fasta",
            remedy="Give more sequences, or lower pretrain.held_out",
        )
    return held_out, trained


def begin(shape: Esm2Shape, config: PretrainConfig, device: str) -> Training:
    """A training before its first step; the weights follow from the seed."""
    model = build(lambda: EsmForMaskedLM(esm_config(shape)), seed=config.seed, device=device)
    return Training(model.train(), make_optimiser(model, config.training, config.learning_rate))


def run_steps(
    training: Training, upto: int, sequences: Sequence[IntArray], config: PretrainConfig, advance: Any = lambda: None
) -> None:
    """Train up to a step, and note the mean loss of the steps taken."""
    total, first, policy = 0.0, training.step, config.training
    device = next(training.model.parameters()).device
    training.model.train()
    while training.step < upto:
        for group in training.optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(policy, training.step, config.steps)
        training.optimiser.zero_grad(set_to_none=True)
        for part in range(policy.accumulate):
            generator = np.random.default_rng([config.seed, TRAINED_STREAM, training.step, part])
            chosen = generator.integers(len(sequences), size=config.sequences)
            loss = loss_of(training.model, disturbed([sequences[i] for i in chosen], config, generator), config, device)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise GowhyError(
                    f"the loss is {value} at step {training.step}",
                    where="pretrain",
                    remedy="Lower pretrain.learning_rate, or set pretrain.training.clip_norm",
                )
            torch.autograd.backward(loss / policy.accumulate)
            total += value / policy.accumulate
        if policy.clip_norm > 0:
            nn.utils.clip_grad_norm_(training.model.parameters(), policy.clip_norm)
        training.optimiser.step()
        training.step += 1
        advance()
    training.losses.append({"step": training.step, "trained": total / max(1, training.step - first), "held_out": None})


def loss_of(model: nn.Module, batch: Batch, config: PretrainConfig, device: torch.device) -> torch.Tensor:
    """Mean cross-entropy of the residues that are asked for, in nats."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.training.precision == "bfloat16"):
        found = model(
            input_ids=batch.tokens.to(device),
            attention_mask=batch.attention.to(device),
            labels=batch.labels.to(device),
        )
    loss: torch.Tensor = found.loss
    return loss


def disturbed(sequences: Sequence[IntArray], config: PretrainConfig, generator: np.random.Generator) -> Batch:
    """Crop, mask and pad some proteins; each has at least one residue that is asked for."""
    crops = []
    for tokens in sequences:
        start = int(generator.integers(max(1, len(tokens) - config.max_length + 1)))
        crops.append(tokens[start : start + config.max_length])
    width = max(map(len, crops)) + 2
    seen = np.full((len(crops), width), PAD, np.int64)
    labels = np.full_like(seen, IGNORED)
    for row, tokens in enumerate(crops):
        asked = generator.random(len(tokens)) < config.masked
        asked[int(generator.integers(len(tokens)))] = True
        fate = generator.random(len(tokens))
        changed = np.where(asked & (fate < MASKED), MASK, tokens)
        random = RESIDUES[generator.integers(len(RESIDUES), size=len(tokens))]
        changed = np.where(asked & (fate >= MASKED) & (fate < MASKED + REPLACED), random, changed)
        place = slice(1, len(tokens) + 1)
        seen[row, 0], seen[row, len(tokens) + 1] = CLS, EOS
        seen[row, place], labels[row, place] = changed, np.where(asked, tokens, IGNORED)
    return Batch(torch.from_numpy(seen), torch.from_numpy((seen != PAD).astype(np.int64)), torch.from_numpy(labels))


def watch(model: nn.Module, sequences: Sequence[IntArray], config: PretrainConfig) -> float | None:
    """Mean loss of the held-out proteins, always with the same crops and masks; None without any."""
    if not sequences:
        return None
    model.eval()
    device, total = next(model.parameters()).device, 0.0
    with torch.inference_mode():
        for start in range(0, len(sequences), WATCHED_ROWS):
            part = sequences[start : start + WATCHED_ROWS]
            generator = np.random.default_rng([config.seed, HELD_OUT_STREAM, 1 + start])
            total += float(loss_of(model, disturbed(part, config, generator), config, device)) * len(part)
    model.train()
    return total / len(sequences)


def save(training: Training, path: Path, key: str) -> None:
    """Keep everything that the next step needs; whole or absent."""
    content = {
        "key": key,
        "step": training.step,
        "losses": json.dumps(training.losses),
        "model": {name: tensor.clone() for name, tensor in training.model.state_dict().items()},
        "optimiser": training.optimiser.state_dict(),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def resume(training: Training, path: Path, key: str) -> None:
    """Go on from a save, where there is one.

    Raises:
        IntegrityError: it is of another training, or damaged.
    """
    if not path.is_file():
        return
    device = next(training.model.parameters()).device
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        if content["key"] != key:
            raise _other(path)
        training.model.load_state_dict(content["model"])
        training.optimiser.load_state_dict(content["optimiser"])
        training.step, training.losses = int(content["step"]), json.loads(content["losses"])
    except IntegrityError:
        raise
    except Exception as error:  # a parser may raise anything on a damaged file
        raise IntegrityError(
            f"cannot go on from this save: {type(error).__name__}", where=str(path), remedy="Delete it and start again"
        ) from error


def finish(
    training: Training,
    out: Path,
    config: PretrainConfig,
    key: str,
    *,
    data: str,
    proteins: int,
    device: str,
    threads: int,
) -> dict[str, Any]:
    """Write the encoder, its config and its card, then the record, and drop the save."""
    tensors = encoder_tensors(training.model)
    with atomic_path(out / MODEL) as temporary:
        save_file(tensors, temporary)
    write_json(out / CONFIG, described(config))
    record = {
        "key": key,
        "config": config.model_dump(mode="json"),
        "data": data,
        "proteins": proteins,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "size_mb": (out / MODEL).stat().st_size / 1e6,
        "sha256": sha256_file(out / MODEL),
        "losses": training.losses,
        "software": relevant_versions(),
        "device": torch.device(device).type,
        "threads": threads,
    }
    write_bytes(out / CARD, card(config, record).encode())
    write_json(out / RECORD, record)
    (out / STATE).unlink(missing_ok=True)
    return record


def encoder_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's parameters in float16 by transformers' names; the language-model head is left out.

    Raises:
        GowhyError: one is not finite in float16.
    """
    network = Esm2Network(Esm2Shape(1, 8, 1))  # only its names are asked
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("esm.") and network.parameter_name(name) is not None:
            found[name] = tensor.detach().to("cpu", torch.float16).contiguous().clone()
            if not torch.isfinite(found[name]).all():
                raise GowhyError(
                    f"{name} does not fit float16", where="pretrain", remedy="Raise pretrain.training.weight_decay"
                )
    return found


def described(config: PretrainConfig) -> Mapping[str, Any]:
    """`config.json`: what decides the function of the weights, as transformers spells it."""
    whole = esm_config(shape_of(config)).to_dict()
    kept = (
        "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "position_embedding_type", "token_dropout", "emb_layer_norm_before", "layer_norm_eps", "pad_token_id",
        "mask_token_id", "max_position_embeddings",
    )  # fmt: skip
    return {"architectures": ["EsmModel"], **{name: whole[name] for name in kept}}


def card(config: PretrainConfig, record: Mapping[str, Any]) -> str:
    """The model card as Markdown: what it is, what it was made of, and what it is not."""
    last = record["losses"][-1]
    held_out = "not watched" if last["held_out"] is None else f"{last['held_out']:.3f} nats per residue"
    residues = config.steps * config.training.accumulate * config.sequences * config.max_length
    return "\n".join(
        (
            "# A small protein language model",
            "",
            f"{shape_of(config).describe()}; {record['parameters']:,} parameters, {record['size_mb']:.1f} MB in float16.",
            f"Trained by gowhy (`python -m services.train pretrain`) on {record['proteins']:,} sequences (digest "
            f"`{record['data']}`): {config.steps:,} steps, at most {residues:,} residues read, {config.masked:.0%} of "
            "them to be told from the others.",
            "",
            f"Loss on held-out proteins, not separated by homology: {held_out}; a guess at even odds has 3.00.",
            "",
            "What it is: an encoder for `embed.esm2`, made without any label and without downloaded weights.",
            "What it is not: ESM-2. It has read a small part of what ESM-2 has read, knows no protein family that was not",
            "among its sequences, and predicts no structure. Whether its vectors say more than the amino-acid composition",
            "is a question for `python -m benchmarks.encoder_knn`, not for this card.",
            "",
        )
    )


def _other(path: Path) -> IntegrityError:
    return IntegrityError(
        "it is of a training with other settings, sequences, software or threads",
        where=str(path),
        remedy="Give another --out, or delete this one",
    )
