"""Sequence encoders and what is done to their vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from shared.config.base import Section

RANDOM_INIT = re.compile(r"random-init\((\d{1,18})\)")


def _name_may_be_left_out(schema: dict[str, Any]) -> None:
    """In a file it may be (`EmbedConfig`)."""
    schema.pop("required", None)


class EncoderConfig(Section):
    """One encoder. `weights` is a local folder or file, `hub` (download), `shipped` or `random-init(SEED)`.

    Sequences longer than `window` residues are embedded in balanced windows that share `overlap`
    residues with their neighbours; see shared.nn.encoders.windows.
    """

    model_config = ConfigDict(json_schema_extra=_name_may_be_left_out)

    name: str = Field(description="key of shared.nn.encoders.ENCODERS; left out with `weights`: the default one")
    weights: str = Field("random-init(0)", min_length=1)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the weights; checked when given")
    window: int = Field(1022, ge=8, description="residues per window")
    overlap: int = Field(0, ge=0, description="residues that neighbouring windows share")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the embeddings; bfloat16 is 2 to 3 times as fast, see docs/performance.md"
    )
    tokens_per_batch: int = Field(
        4096, ge=64, description="how much work is done between two saves; on a GPU also per forward pass"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap >= self.window:
            raise ValueError(f"overlap {self.overlap} must be smaller than window {self.window}")
        if self.weights.startswith("random-init") and not RANDOM_INIT.fullmatch(self.weights):
            raise ValueError(f"{self.weights!r} is not random-init(SEED), for example random-init(0)")
        return self


class EmbedConfig(Section):
    """Stages 5 and 6; null leaves the modality absent."""

    t5: EncoderConfig | None = EncoderConfig(name="prott5_tiny")
    esm2: EncoderConfig | None = EncoderConfig(name="esm2_tiny")

    @model_validator(mode="before")
    @classmethod
    def _same_encoder(cls, values: Any) -> Any:
        """A change of the default encoder that leaves its weights alone need not name it."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for modality in cls.model_fields:
            given = values.get(modality)
            if isinstance(given, Mapping) and not {"name", "weights"} & given.keys():
                filled[modality] = {"name": cls.model_fields[modality].default.name, **given}
        return filled


class TransformConfig(Section):
    """v1: the pooled vector; v2: L2-normalised per modality; `normalize` standardises within the fold."""

    version: Literal["v1", "v2"] = "v1"
    normalize: bool = True
