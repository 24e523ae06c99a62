"""Fitted models, by kind: `MEMBERS[kind].restore(architecture, arrays)`.

`MEMBERS` is loaded on first use: the torch members import from this package, and a reader of plain
records should not pay for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.models.members import MEMBERS

__all__ = ["MEMBERS"]


def __getattr__(name: str) -> Any:
    if name == "MEMBERS":
        from shared.models.members import MEMBERS  # noqa: PLC0415 - see the module's docstring

        return MEMBERS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
