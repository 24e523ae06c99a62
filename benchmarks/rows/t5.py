"""Mean embedding with a ProtT5-shaped encoder (a quarter of the layers, half the width; random weights) beside its peers."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import T5EncoderModel

from benchmarks.peers.contest import Contest, Result, Way, cosine_distance, interleave, peak, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as compared
from benchmarks.rows.embedding import HALF_ERROR, OPENVINO, SINGLE_ERROR, add_openvino, proteins, share_of_peak
from shared.config.embed import EncoderConfig
from shared.nn.encoders.encoder import TransformerEncoder
from shared.nn.encoders.prott5 import T5Network, T5Shape
from shared.nn.encoders.weights import load_weights

SHAPE = T5Shape(layers=6, dim=512, heads=16, head_dim=64, feed_forward=4096)
HALF, SINGLE, PEAK = "gowhy bf16", "gowhy float32", "bf16 GEMM"
ONE, ONE_HALF = "Hugging Face one by one", "Hugging Face bf16, one by one"


def useful_flops(sequences: list[str]) -> float:
    """Multiplications and additions of the matrix products and of attention."""
    inner = SHAPE.heads * SHAPE.head_dim
    tokens = np.array([len(sequence) + 1 for sequence in sequences], np.float64)
    per_token = 8 * SHAPE.dim * inner + 4 * SHAPE.dim * SHAPE.feed_forward
    return float((per_token * tokens + 4 * inner * tokens**2).sum() * SHAPE.layers)


def measure(count: int, rounds: int) -> Contest:
    """All ways on the same weights and proteins."""
    sequences = proteins(count)
    with ExitStack() as stack, torch.no_grad():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gowhy-bench-")))
        network = T5Network(SHAPE)
        weights = load_weights(network, "random-init(0)", None)
        generator = torch.Generator().manual_seed(0)
        for key, parameter in network.module.named_parameters():
            if "layer_norm" in key:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
            elif "relative" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        encoders = {
            dtype: TransformerEncoder(
                EncoderConfig(name="prott5_xl", dtype=dtype), network, weights, torch.device("cpu")
            )
            for dtype in ("float32", "bfloat16")
        }
        tokens = [[*encoders["float32"].tokenise(sequence).tolist(), 1] for sequence in sequences]
        module: Any = network.module
        module.save_pretrained(folder / "hf")
        single = T5EncoderModel.from_pretrained(folder / "hf", attn_implementation="eager").eval()
        half = T5EncoderModel.from_pretrained(folder / "hf", attn_implementation="eager").eval().to(torch.bfloat16)
        ways: dict[str, Way] = {
            ONE: timed(lambda: _one_by_one(single, tokens)),
            ONE_HALF: timed(lambda: _one_by_one(half, tokens)),
        }
        skipped = add_openvino(ways, stack, folder, {"family": "t5", "tokens": tokens, "special": [0, 1]})
        ways[PEAK] = peak((4096, SHAPE.dim, SHAPE.feed_forward))
        ways[HALF] = timed(lambda: encoders["bfloat16"].embed(sequences))
        ways[SINGLE] = timed(lambda: encoders["float32"].embed(sequences))
        return interleave(ways, rounds, skipped)


def _one_by_one(model: Any, tokens: list[list[int]]) -> Result:
    with torch.inference_mode():
        return np.stack(
            [model(input_ids=torch.tensor([ids])).last_hidden_state[0, :-1].float().mean(0).numpy() for ids in tokens]
        )


def compare(rounds: int, count: int = 10) -> list[Comparison]:
    """Beside Hugging Face one by one, which was its fastest way in float32; the others are shown."""
    contest = measure(count, rounds)
    sequences = proteins(count)
    line = {
        "sizes": f"{count} proteins, {sum(map(len, sequences))} residues",
        "difference": cosine_distance(contest.results[HALF], contest.results[ONE]),
        "tolerance": HALF_ERROR,
        "measure": "1 - cosine",
        "fraction": share_of_peak(contest, HALF, PEAK, useful_flops(sequences)),
    }
    single = {**line, "difference": cosine_distance(contest.results[SINGLE], contest.results[ONE]), "fraction": None}
    single["tolerance"] = SINGLE_ERROR
    return [
        compared(contest, HALF, ONE, name="T5 bf16", least=2.5, **line),
        compared(contest, HALF, ONE_HALF, name="T5 bf16, Hugging Face bf16", least=None, **line),
        compared(contest, HALF, OPENVINO, name="T5 bf16, OpenVINO", least=None, **line),
        compared(contest, SINGLE, ONE, name="T5 float32", least=None, **single),
    ]
