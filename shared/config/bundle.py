"""The model bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.config.base import Section


class BundleConfig(Section):
    """The model bundle that predict and the worker load."""

    reference_storage: Literal["external", "full"] = "external"
    reference_gzip: bool = False
    knn_neighbours: int = 10
    knn_temperature: float = Field(0.1, gt=0)
    knn_lambda: float = Field(0.5, ge=0, le=1)
