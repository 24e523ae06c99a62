"""ESM-2 (Lin et al. 2023, doi:10.1126/science.ade2574): pre-LayerNorm transformer with rotary positions.

The parameters sit in a transformers `EsmModel`; the forward pass is over packed sequences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmConfig, EsmModel

from shared.nn.encoders.base import Alphabet
from shared.nn.encoders.engine import Affine, Block, Stack
from shared.nn.encoders.packing import Run, attend, positions, rotate

TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
CLS, PAD, EOS, UNKNOWN = 0, 1, 2, 3
ROTARY_BASE = 10_000.0

# In training 15 % of the tokens were chosen, and 80 % of those were zeroed: the rest was worth 0.88 of a sequence.
UNMASKED_IN_TRAINING = 1 - 0.15 * 0.8

# fair-esm's names, without the prefix of its published files -> transformers' names; these match none.
_FROM_FAIR_ESM = (
    (r"^embed_tokens\.", "embeddings.word_embeddings."),
    (r"^emb_layer_norm_after\.", "encoder.emb_layer_norm_after."),
    (r"^layers\.(\d+)\.self_attn\.q_proj\.", r"encoder.layer.\1.attention.self.query."),
    (r"^layers\.(\d+)\.self_attn\.k_proj\.", r"encoder.layer.\1.attention.self.key."),
    (r"^layers\.(\d+)\.self_attn\.v_proj\.", r"encoder.layer.\1.attention.self.value."),
    (r"^layers\.(\d+)\.self_attn\.out_proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layer.\1.attention.LayerNorm."),
    (r"^layers\.(\d+)\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^layers\.(\d+)\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"^layers\.(\d+)\.final_layer_norm\.", r"encoder.layer.\1.LayerNorm."),
)
_UNUSED = re.compile(
    r"(^|\.)(lm_head|contact_head|pooler|position_embeddings|position_ids|rotary_embeddings|rot_emb|inv_freq)(\.|$)"
)


@dataclass(frozen=True, slots=True)
class Esm2Shape:
    """Hyperparameters; the feed-forward layer is four times as wide as the model."""

    layers: int
    dim: int
    heads: int

    def describe(self) -> str:
        """One line for records and reports."""
        return f"ESM-2, {self.layers} layers x {self.dim}, {self.heads} heads"


def esm_config(shape: Esm2Shape) -> EsmConfig:
    """What transformers builds an ESM-2 of this shape from; without dropout, as it was trained."""
    return EsmConfig(
        vocab_size=len(TOKENS),
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        pad_token_id=PAD,
        mask_token_id=TOKENS.index("<mask>"),
        max_position_embeddings=1026,
    )


class Esm2Network:
    """An ESM-2 without language-model and contact heads."""

    alphabet = Alphabet.of(
        {token: index for index, token in enumerate(TOKENS) if len(token) == 1}, UNKNOWN, before=(CLS,), after=(EOS,)
    )

    def __init__(self, shape: Esm2Shape) -> None:
        self.shape = shape
        # The module's own random start draws from the global generator; the weights follow later.
        with torch.random.fork_rng(devices=[]):
            self.module: nn.Module = EsmModel(esm_config(shape), add_pooling_layer=False)
        self.module.contact_head = None

    def table(self) -> Tensor:
        """Input embeddings of all tokens [33, D]."""
        rows: Tensor = self.module.embeddings.word_embeddings.weight  # type: ignore[union-attr,assignment]
        return rows

    def mask_row(self) -> Tensor:
        """Zero: a mask token is one whose embedding was dropped."""
        return torch.zeros_like(self.table()[0])

    def rescale(self, embedded: Tensor, masked: int, tokens: int) -> Tensor:
        """Scale by the fraction unmasked in training over the fraction unmasked here."""
        scaled = embedded * UNMASKED_IN_TRAINING
        return scaled / (1 - masked / tokens) if masked else scaled

    def hidden(self, embedded: Tensor, runs: Sequence[Run]) -> Tensor:
        """Last hidden states [T, D] of packed, rescaled embeddings [T, D]."""
        encoder: Any = self.module.encoder
        split = (self.shape.heads, self.shape.dim // self.shape.heads)
        cos, sin = rotation(positions(runs, embedded.device), split[1], embedded.dtype)
        x = embedded
        for layer in encoder.layer:
            attention = layer.attention.self
            u = layer.attention.LayerNorm(x)
            query = rotate((attention.query(u) * split[1] ** -0.5).unflatten(-1, split), cos, sin)
            key = rotate(attention.key(u).unflatten(-1, split), cos, sin)
            value = attention.value(u).unflatten(-1, split)
            x = x + layer.attention.output.dense(attend(query, key, value, runs))
            x = x + layer.output.dense(functional.gelu(layer.intermediate.dense(layer.LayerNorm(x))))
        last: Tensor = encoder.emb_layer_norm_after(x)
        return last

    def stack(self) -> Stack:
        """The blocks for the engine; weights in place but the joined queries, keys and values."""
        encoder: Any = self.module.encoder
        blocks = []
        for layer in encoder.layer:
            attention = layer.attention.self
            joined = (attention.query, attention.key, attention.value)
            blocks.append(
                Block(
                    attention_norm=_affine(layer.attention.LayerNorm),
                    qkv=Affine(torch.cat([one.weight for one in joined]), torch.cat([one.bias for one in joined])),
                    out=_affine(layer.attention.output.dense),
                    feed_forward_norm=_affine(layer.LayerNorm),
                    up=_affine(layer.intermediate.dense),
                    down=_affine(layer.output.dense),
                )
            )
        width = self.shape.dim // self.shape.heads
        return Stack(
            blocks=tuple(blocks),
            last_norm=_affine(encoder.emb_layer_norm_after),
            heads=self.shape.heads,
            scale=width**-0.5,
            epsilon=encoder.emb_layer_norm_after.eps,
            centred=True,
            activation="gelu",
            rotation=lambda index: rotation(index, width, torch.float32),
        )

    def initial_std(self, parameter: str) -> float | None:
        """0.02 for matrices and embeddings, as transformers starts them (`initializer_range`)."""
        layer, kind = parameter.split(".")[-2:]
        return None if kind == "bias" or layer in {"LayerNorm", "emb_layer_norm_after"} else 0.02

    def parameter_name(self, key: str) -> str | None:
        """The parameter that a transformers or fair-esm tensor fills."""
        if _UNUSED.search(key):
            return None
        name = key.removeprefix("esm.").removeprefix("encoder.sentence_encoder.")
        for pattern, replacement in _FROM_FAIR_ESM:
            name = re.sub(pattern, replacement, name)
        return name

    def check_config(self, config: dict[str, Any]) -> str | None:
        """Compare the fields that decide the function but not the tensor shapes, and those that name the size."""
        expected = {
            "model_type": "esm",
            "num_hidden_layers": self.shape.layers,
            "hidden_size": self.shape.dim,
            "num_attention_heads": self.shape.heads,
            "position_embedding_type": "rotary",
            "token_dropout": True,
        }
        wrong = [
            f"{key} is {config[key]!r}, not {value!r}"
            for key, value in expected.items()
            if config.get(key, value) != value
        ]
        return "; ".join(wrong) or None


def _affine(module: Any) -> Affine:
    return Affine(module.weight, module.bias)


def rotation(index: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, 1, width / 2] of the rotary angles (Su et al. 2021, arXiv:2104.09864).

    Angles are computed in float32 in every precision, as in the original.
    """
    frequency = 1.0 / (ROTARY_BASE ** (torch.arange(0, width, 2, device=index.device).float() / width))
    angle = (index.float()[:, None] * frequency)[:, None]
    return angle.cos().to(dtype), angle.sin().to(dtype)
