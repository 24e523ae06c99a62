"""Mean embedding with ESM-2 (8M, 35M; random weights) beside fair-esm, Hugging Face and OpenVINO."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import esm
import numpy as np
import torch
from transformers import EsmConfig, EsmModel

from benchmarks.peers.client import Peer, PeerMissing
from benchmarks.peers.contest import Contest, Result, Way, cosine_distance, interleave, peak, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as compared
from shared.config.embed import EncoderConfig
from shared.nn.encoders import ENCODERS, load_encoder
from shared.nn.encoders.base import STANDARD_RESIDUES
from shared.nn.encoders.esm2 import Esm2Shape

SIZES = {"8M": "esm2_t6_8M", "35M": "esm2_t12_35M"}
MEDIAN, SIGMA, SHORTEST, LONGEST, WINDOW = 350, 0.65, 30, 2500, 1022
TOKENS = 4096  # per batch of the peers that pad, as in fair-esm's extract.py
EXTRACT, HF_HALF, OPENVINO = "fair-esm extract.py", "Hugging Face sdpa bf16, sorted", "OpenVINO bf16, one by one"
HALF, SINGLE, REFERENCE, PEAK = "gowhy bf16", "gowhy float32", "fair-esm one by one", "bf16 GEMM"
SINGLE_PEAK = "float32 GEMM"


def proteins(count: int, seed: int = 1) -> list[str]:
    """Random proteins of realistic lengths: log-normal, cut at the model's window."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(MEDIAN), SIGMA, count)).astype(int).clip(SHORTEST, LONGEST)
    return ["".join(rng.choice(list(STANDARD_RESIDUES), min(int(n), WINDOW))) for n in lengths]


def useful_flops(sequences: list[str], shape: Esm2Shape) -> float:
    """Multiplications and additions of the matrix products and of attention, without padding or language-model head."""
    tokens = np.array([len(sequence) + 2 for sequence in sequences], np.float64)
    return float((24 * shape.dim**2 * tokens + 4 * shape.dim * tokens**2).sum() * shape.layers)


def measure(size: str, count: int, rounds: int) -> Contest:
    """All ways on the same weights and proteins."""
    name = SIZES[size]
    sequences = proteins(count)
    with ExitStack() as stack, torch.no_grad():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gowhy-bench-")))
        fair = _fair_esm(name)
        torch.save(
            {"model": {f"encoder.sentence_encoder.{key}": value for key, value in fair.state_dict().items()}},
            folder / "fair.pt",
        )
        encoders = {
            dtype: load_encoder(EncoderConfig(name=name, weights=str(folder / "fair.pt"), dtype=dtype), "cpu")
            for dtype in ("float32", "bfloat16")
        }
        tokens = [[0, *encoders["float32"].tokenise(sequence).tolist(), 2] for sequence in sequences]
        hugging = _hugging_face(name, encoders["float32"].network.module, folder)  # type: ignore[attr-defined]
        ways: dict[str, Way] = {
            REFERENCE: timed(lambda: _one_by_one(fair, tokens)),
            EXTRACT: timed(lambda: _extract(fair, sequences)),
            HF_HALF: timed(lambda: _padded(hugging, tokens)),
        }
        skipped = add_openvino(ways, stack, folder, {"family": "esm", "tokens": tokens, "special": [1, 1]})
        dim = encoders["float32"].dim
        ways[SINGLE_PEAK] = peak((4096, dim, 4 * dim), torch.float32, packed=True)
        ways[PEAK] = peak((4096, dim, 4 * dim))
        ways[HALF] = timed(lambda: encoders["bfloat16"].embed(sequences))
        ways[SINGLE] = timed(lambda: encoders["float32"].embed(sequences))
        return interleave(ways, rounds, skipped)


def _fair_esm(name: str) -> Any:
    """fair-esm's own module with gains and biases that are not 1 and 0."""
    shape = ENCODERS[name].shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = esm.model.esm2.ESM2(
            num_layers=shape.layers,
            embed_dim=shape.dim,
            attention_heads=shape.heads,
            alphabet=esm.data.Alphabet.from_architecture("ESM-1b"),
            token_dropout=True,
        ).eval()
        for key, parameter in model.named_parameters():
            if "layer_norm" in key and key.endswith("weight"):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif key.endswith("bias") and parameter.ndim == 1:
                parameter.copy_(0.05 * torch.randn_like(parameter))
    return model


def add_openvino(ways: dict[str, Way], stack: ExitStack, folder: Path, task: dict[str, Any]) -> dict[str, str]:
    """Add OpenVINO on the model that Hugging Face saved in `folder`/hf; or why it cannot be asked."""
    result = folder / "openvino.npy"
    try:
        paths = {"folder": str(folder / "hf"), "result": str(result)}
        peer = stack.enter_context(Peer("openvino_encoder.py", {**task, **paths}))
    except PeerMissing as error:
        return {OPENVINO: str(error)}
    ways[OPENVINO] = lambda: (peer.run(), np.load(result))
    return {}


def _one_by_one(model: Any, tokens: list[list[int]]) -> Result:
    layer = model.num_layers
    return np.stack(
        [
            model(torch.tensor([ids]), repr_layers=[layer])["representations"][layer][0, 1:-1].mean(0).numpy()
            for ids in tokens
        ]
    )


def _extract(model: Any, sequences: list[str]) -> Result:
    """The batches and the loop of fair-esm's scripts/extract.py with `--include mean`."""
    data = esm.FastaBatchedDataset([str(row) for row in range(len(sequences))], sequences)
    convert, layer = model.alphabet.get_batch_converter(), model.num_layers
    vectors: list[Any] = [None] * len(sequences)
    with torch.no_grad():
        for batch in data.get_batch_indices(TOKENS, extra_toks_per_seq=1):
            _, _, tokens = convert([(str(row), sequences[row]) for row in batch])
            states = model(tokens, repr_layers=[layer], return_contacts=False)["representations"][layer]
            for place, row in enumerate(batch):
                vectors[row] = states[place, 1 : len(sequences[row]) + 1].mean(0).numpy()
    return np.stack(vectors)


def _hugging_face(name: str, module: Any, folder: Path) -> Any:
    """Transformers' model in bfloat16; its float32 weights are left in the folder `hf` for other peers."""
    config = EsmConfig(**{**module.config.to_dict(), "max_position_embeddings": LONGEST})
    model = EsmModel._from_config(config, attn_implementation="sdpa", add_pooling_layer=False).eval()
    missing = model.load_state_dict(module.state_dict(), strict=False)
    unfilled = [
        key for key in missing.missing_keys if not any(part in key for part in ("contact", "inv_freq", "position"))
    ]
    if unfilled or missing.unexpected_keys:
        raise ValueError(f"{name}: {unfilled} have no value, {missing.unexpected_keys} no place")
    model.save_pretrained(folder / "hf")
    return model.to(torch.bfloat16)


def _padded(model: Any, tokens: list[list[int]]) -> Result:
    """Longest first, padded batches of up to TOKENS."""
    vectors: list[Any] = [None] * len(tokens)
    with torch.inference_mode():
        for batch in sorted_batches([len(ids) for ids in tokens]):
            longest = max(len(tokens[row]) for row in batch)
            ids = torch.ones(len(batch), longest, dtype=torch.long)
            for place, row in enumerate(batch):
                ids[place, : len(tokens[row])] = torch.tensor(tokens[row])
            states = model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
            for place, row in enumerate(batch):
                vectors[row] = states[place, 1 : len(tokens[row]) - 1].float().mean(0).numpy()
    return np.stack(vectors)


def sorted_batches(lengths: list[int], budget: int = TOKENS) -> list[list[int]]:
    """Rows longest first, as many per batch as fit unpadded into the budget."""
    batches: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or lengths[row] > room:
            batches.append([])
            room = budget
        batches[-1].append(row)
        room -= lengths[row]
    return batches


HALF_ERROR, SINGLE_ERROR = 2e-5, 1e-6
FLOORS = {"8M": (24, 7.0), "35M": (16, 5.5)}  # proteins; bf16 by extract.py
OF_PEAK, SINGLE_FLOOR = 0.62, 3.0


def compare(rounds: int) -> list[Comparison]:
    """Both sizes; every line's fraction is of the matrix product of the same precision, measured beside it."""
    lines = []
    for size, (count, floor) in FLOORS.items():
        contest = measure(size, count, rounds)
        sequences = proteins(count)
        flops = useful_flops(sequences, ENCODERS[SIZES[size]].shape)  # type: ignore[arg-type]
        share, single = (share_of_peak(contest, *ways, flops) for ways in ((HALF, PEAK), (SINGLE, SINGLE_PEAK)))
        error, single_error = (
            cosine_distance(contest.results[way], contest.results[REFERENCE]) for way in (HALF, SINGLE)
        )
        half = {
            "sizes": f"{count} proteins, {sum(map(len, sequences))} residues",
            "difference": error,
            "tolerance": HALF_ERROR,
            "measure": "1 - cosine",
            "fraction": share,
        }
        lines += [
            compared(contest, HALF, EXTRACT, name=f"ESM-2 {size} bf16", least=floor, least_fraction=OF_PEAK, **half),
            compared(contest, HALF, HF_HALF, name=f"ESM-2 {size} bf16, Hugging Face", least=1.9, **half),
            compared(contest, HALF, OPENVINO, name=f"ESM-2 {size} bf16, OpenVINO", least=1.15, **half),
        ]
        line = {**half, "difference": single_error, "tolerance": SINGLE_ERROR, "fraction": single}
        lines.append(compared(contest, SINGLE, EXTRACT, name=f"ESM-2 {size} float32", least=SINGLE_FLOOR, **line))
    return lines


def share_of_peak(contest: Contest, ours: str, product: str, flops: float) -> float:
    """Median over rounds of the useful operations per second by those of the matrix product in the same round."""
    work = float(contest.results[product]) * contest.seconds[product][-1]  # operations of one product
    pairs = zip(contest.seconds[ours], contest.seconds[product], strict=True)
    return statistics.median((flops / mine) / (work / theirs) for mine, theirs in pairs)
