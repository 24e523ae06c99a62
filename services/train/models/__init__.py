"""What fits models. `MODELS[name]` is the fitter of a level-1 model; it is loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.train.models.registry import MODELS

__all__ = ["MODELS"]


def __getattr__(name: str) -> Any:
    if name == "MODELS":
        from services.train.models.registry import MODELS  # noqa: PLC0415 - most users of this package need one module of it

        return MODELS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
