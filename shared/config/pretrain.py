"""Training of a small sequence encoder by masked-language modelling: the verb `pretrain`."""

from __future__ import annotations

from pydantic import Field

from shared.config.base import Section
from shared.config.training import TrainingConfig


class PretrainConfig(Section):
    """What `python -m services.train pretrain` does; no stage reads it."""

    encoder: str = Field("esm2_small", description="key of shared.nn.encoders.ENCODERS, an ESM-2")
    steps: int = Field(4500, ge=1, description="optimiser steps")
    sequences: int = Field(24, ge=1, description="proteins per batch; training.accumulate batches make a step")
    max_length: int = Field(256, ge=8, description="residues of a protein that are read, from a random place")
    learning_rate: float = Field(1e-3, gt=0, description="the peak of the schedule")
    masked: float = Field(0.15, gt=0, lt=1, description="share of the residues that are to be told from the others")
    held_out: int = Field(256, ge=0, description="proteins that are never trained on, to watch the loss")
    save_every: int = Field(100, ge=1, description="steps between two saves; a killed training goes on from the last")
    largest_mb: float = Field(20.0, gt=0, description="refuse an encoder that takes more in float16, in 10^6 bytes")
    training: TrainingConfig = TrainingConfig()
    seed: int = 29
