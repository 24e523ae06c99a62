"""The residue-level CNN."""

from __future__ import annotations

from pydantic import Field, field_validator

from shared.config.base import Section


class CnnConfig(Section):
    """Residue-level CNN on the sequence itself."""

    channels: int = Field(256, ge=1, description="filters; half of them span `kernel`, the others a half and a quarter")
    kernel: int = Field(31, ge=1, description="residues that the widest filter spans; gapped motifs need about 25; odd")
    layers: int = Field(
        1, ge=1, description="convolutions; the first sees residues, each further one is a residual block"
    )
    dropout: float = Field(0.2, ge=0, lt=1)
    exemplar: float = Field(0.25, ge=0, description="share of a fitted protein's own window that a filter starts with")
    max_mask: float = Field(
        0.15, ge=0, lt=1, description="each training protein loses up to this share of its residues"
    )
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(4e-3, gt=0)
    max_length: int = Field(1024, ge=16, description="residues of a training crop; scoring uses the whole sequence")

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("an even kernel has no centre residue; use an odd one")
        return kernel
