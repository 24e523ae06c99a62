"""The training policy that every gradient-trained model shares."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.config.base import Section


class TrainingConfig(Section):
    """The training policy that every gradient-trained model shares."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(
        0.01, ge=0, description="of weight matrices and kernels; biases, gains and embeddings have none"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="of the matrix products; weights and sums are float32. auto: bfloat16 where the processor or GPU "
        "multiplies it natively, which halves the time of the MLP, see docs/performance.md",
    )
    clip_norm: float = Field(1.0, ge=0, description="largest norm of a step's gradient; 0 does not clip")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="of the learning rate, after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps over which the learning rate rises from 0")
    seed: int = 17
