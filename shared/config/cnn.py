"""The residue-level CNN."""

from __future__ import annotations

from pydantic import Field

from shared.config.base import Section


class CnnConfig(Section):
    """Residue-level CNN on the sequence itself."""

    channels: int = Field(192, ge=1)
    kernel: int = Field(25, ge=1, description="residues a filter spans; gapped motifs need about 25; odd")
    layers: int = Field(
        1, ge=1, description="convolutions; the first sees residues, each further one is a residual block"
    )
    dropout: float = Field(0.0, ge=0, lt=1)
    exemplar: float = Field(0.2, ge=0, description="share of a fitted protein's own window that a filter starts with")
    max_mask: float = Field(
        0.15, ge=0, lt=1, description="each training protein loses up to this share of its residues"
    )
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(4e-3, gt=0)
    max_length: int = Field(1024, ge=16, description="residues of a training crop; scoring uses the whole sequence")
