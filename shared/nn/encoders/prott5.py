"""ProtT5 (Elnaggar et al. 2021, doi:10.1109/TPAMI.2021.3095381): the encoder half of a T5.

The parameters sit in a transformers `T5EncoderModel`; the forward pass is over packed sequences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5Config, T5EncoderModel

from shared.nn.encoders.base import Alphabet
from shared.nn.encoders.engine import Affine, Block, Stack
from shared.nn.encoders.packing import Run, attend

# The vocabulary of Rostlab/prot_t5_xl_*: pad, end, unknown, 25 letters, then <extra_id_99> ... <extra_id_0>.
LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
VOCABULARY = 128
END = 1
FIRST_LETTER = 3
MASK = VOCABULARY - 1  # <extra_id_0>; training numbered the masked residues, here all get the first
RARE = "UZOB"  # read as X, as the authors do
BUCKETS, MAX_DISTANCE = 32, 128

_UNUSED = re.compile(r"^(decoder\.|lm_head\.)")


@dataclass(frozen=True, slots=True)
class T5Shape:
    """Hyperparameters; `head_dim * heads` need not be `dim`."""

    layers: int
    dim: int
    heads: int
    head_dim: int
    feed_forward: int

    def describe(self) -> str:
        """One line for records and reports."""
        return f"T5 encoder, {self.layers} layers x {self.dim}, {self.heads} heads x {self.head_dim}, feed-forward {self.feed_forward}"


def _alphabet() -> Alphabet:
    letters = {letter: FIRST_LETTER + index for index, letter in enumerate(LETTERS) if letter not in RARE}
    return Alphabet.of(letters, letters["X"], before=(), after=(END,))


class T5Network:
    """A T5 encoder with relative positions."""

    alphabet = _alphabet()

    def __init__(self, shape: T5Shape) -> None:
        self.shape = shape
        config = T5Config(
            vocab_size=VOCABULARY,
            d_model=shape.dim,
            d_kv=shape.head_dim,
            num_heads=shape.heads,
            d_ff=shape.feed_forward,
            num_layers=shape.layers,
            feed_forward_proj="relu",
            relative_attention_num_buckets=BUCKETS,
            relative_attention_max_distance=MAX_DISTANCE,
            layer_norm_epsilon=1e-6,
        )
        # The module's own random start draws from the global generator; the weights follow later.
        with torch.random.fork_rng(devices=[]):
            self.module: nn.Module = T5EncoderModel(config)

    def table(self) -> Tensor:
        """Input embeddings of all tokens [128, D]."""
        rows: Tensor = self.module.shared.weight  # type: ignore[union-attr,assignment]
        return rows

    def mask_row(self) -> Tensor:
        """The embedding of <extra_id_0>."""
        return self.table()[MASK]

    def rescale(self, embedded: Tensor, masked: int, tokens: int) -> Tensor:  # noqa: ARG002 - T5 has no token dropout
        """T5 takes embeddings as they are."""
        return embedded

    def hidden(self, embedded: Tensor, runs: Sequence[Run]) -> Tensor:
        """Last hidden states [T, D] of packed embeddings [T, D]."""
        encoder: Any = self.module.encoder
        split = (self.shape.heads, self.shape.head_dim)
        bias = self._position_bias()
        x = embedded
        for block in encoder.block:
            attention = block.layer[0].SelfAttention
            u = root_mean_square_norm(x, block.layer[0].layer_norm)
            query, key, value = (project(u).unflatten(-1, split) for project in (attention.q, attention.k, attention.v))
            x = x + attention.o(attend(query, key, value, runs, bias=bias))
            feed_forward = block.layer[1].DenseReluDense
            x = x + feed_forward.wo(
                functional.relu(feed_forward.wi(root_mean_square_norm(x, block.layer[1].layer_norm)))
            )
        return root_mean_square_norm(x, encoder.final_layer_norm)

    def stack(self) -> Stack:
        """The blocks for the engine; weights in place but the joined queries, keys and values."""
        encoder: Any = self.module.encoder
        blocks = []
        for block in encoder.block:
            attention, feed_forward = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
            joined = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
            blocks.append(
                Block(
                    attention_norm=Affine(block.layer[0].layer_norm.weight, None),
                    qkv=Affine(joined, None),
                    out=Affine(attention.o.weight, None),
                    feed_forward_norm=Affine(block.layer[1].layer_norm.weight, None),
                    up=Affine(feed_forward.wi.weight, None),
                    down=Affine(feed_forward.wo.weight, None),
                )
            )
        return Stack(
            blocks=tuple(blocks),
            last_norm=Affine(encoder.final_layer_norm.weight, None),
            heads=self.shape.heads,
            scale=1.0,  # T5 leaves it to the weights
            epsilon=encoder.final_layer_norm.variance_epsilon,
            centred=False,
            activation="relu",
            bias=self._by_distance,
        )

    def _by_distance(self, distance: Tensor) -> Tensor:
        """The scores' addition [heads, n] at signed distances key - query [n]."""
        table: Any = self.module.encoder.block[0].layer[0].SelfAttention.relative_attention_bias  # type: ignore[union-attr,index]
        # On the CPU, because a logarithm that another device rounds differently is another bucket.
        buckets = bucket(distance.cpu()).to(table.weight.device)
        rows: Tensor = table.weight[buckets].t()
        return rows

    def _position_bias(self) -> Callable[[int], Tensor]:
        """Bias [1, H, n, n] by sequence length, made once per length and shared by all layers.

        It depends on the distance only, so that 2n - 1 rows are looked up instead of n * n.
        """
        known: dict[int, Tensor] = {}

        def bias(length: int) -> Tensor:
            if length not in known:
                # Heads first in memory: attention would copy any other layout, in every layer.
                by_distance = self._by_distance(torch.arange(1 - length, length)).contiguous()  # [H, 2n - 1]
                known[length] = by_distance.unfold(-1, length, 1).flip(1)[None]
            return known[length]

        return bias

    def initial_std(self, parameter: str) -> float | None:
        """As transformers starts them (`T5PreTrainedModel._init_weights`, factor 1)."""
        shape = self.shape
        by_layer = {
            "shared": 1.0,
            "q": (shape.dim * shape.head_dim) ** -0.5,
            "k": shape.dim**-0.5,
            "v": shape.dim**-0.5,
            "o": (shape.heads * shape.head_dim) ** -0.5,
            "wi": shape.dim**-0.5,
            "wo": shape.feed_forward**-0.5,
            "relative_attention_bias": shape.dim**-0.5,
        }
        return by_layer.get(parameter.rsplit(".", 2)[-2])

    def parameter_name(self, key: str) -> str | None:
        """The parameter that a transformers tensor fills, also of a full encoder-decoder."""
        if _UNUSED.match(key):
            return None
        return "shared.weight" if key == "encoder.embed_tokens.weight" else key

    def check_config(self, config: dict[str, Any]) -> str | None:
        """Compare the fields that decide the function but not the tensor shapes, and those that name the size."""
        expected = {
            "model_type": "t5",
            "num_layers": self.shape.layers,
            "d_model": self.shape.dim,
            "num_heads": self.shape.heads,
            "d_kv": self.shape.head_dim,
            "d_ff": self.shape.feed_forward,
            "feed_forward_proj": "relu",
            "relative_attention_max_distance": MAX_DISTANCE,
        }
        wrong = [
            f"{key} is {config[key]!r}, not {value!r}"
            for key, value in expected.items()
            if config.get(key, value) != value
        ]
        return "; ".join(wrong) or None


def root_mean_square_norm(x: Tensor, norm: Any) -> Tensor:
    """T5's LayerNorm: no mean, no bias."""
    return torch.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def bucket(distance: Tensor) -> Tensor:
    """Bucket 0..31 of a signed distance key - query: exact up to 7, then logarithmic up to 127, one for all beyond.

    Half of the buckets are for keys after the query (Raffel et al. 2020, arXiv:1910.10683, section 2.1).
    """
    half, exact = BUCKETS // 2, BUCKETS // 4
    size = distance.abs()
    # The clamp keeps log(0) out of a branch that is not taken.
    far = (
        exact + (torch.log(size.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).long()
    )
    return (distance > 0).long() * half + torch.where(size < exact, size, far.clamp(max=half - 1))
