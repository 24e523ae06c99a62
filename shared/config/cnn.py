"""The residue-level CNN."""

from __future__ import annotations

from pydantic import Field

from shared.config.base import Section


class CnnConfig(Section):
    """Residue-level CNN on the sequence itself."""

    channels: int = 96
    kernel: int = 9
    layers: int = 2
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 2e-3
    max_length: int = Field(1024, description="residues of a training crop; scoring uses the whole sequence")
