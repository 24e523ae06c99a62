"""What an explainer is: a function of inputs, and how much each input adds to one of its outputs.

Every explained output is a logit: a sigmoid saturates, and its gradients vanish exactly where the
model is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Advance = Callable[[int], None]
Subject = Literal["residues", "channels", "mutations"]


@runtime_checkable
class Path(Protocol):
    """A differentiable function F from one subject's inputs to the logits of the asked terms."""

    model: str  # what is explained, such as "cnn", "mlp/esm2", "stacker"

    def inputs(self) -> torch.Tensor:
        """x: [1, units, width]; the units are residues, or the stacker's nodes."""
        ...

    def baseline(self) -> torch.Tensor:
        """x': the same shape, holding the neutral input."""
        ...

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """F: [batch, units, width] -> [batch, asked terms]."""
        ...


@runtime_checkable
class ResiduePath(Path, Protocol):
    """A path whose units are residues, and which also knows the model's mask token."""

    covered: BoolArray  # [residues]; False where the model never sees the residue

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> torch.Tensor:
        """F with the residues of each group (0-based) masked: [groups, asked terms]."""
        ...

    def embed(self, sequence: str) -> torch.Tensor:
        """The inputs [1, len(sequence), width] of another sequence, as `logits` takes them."""
        ...


@runtime_checkable
class StatePath(ResiduePath, Protocol):
    """A residue path through a mean over residue states: F(x) = head(mean of the states)."""

    def states(self) -> torch.Tensor:
        """The residues' states [residues, D]."""
        ...

    def state_reference(self) -> torch.Tensor:
        """The neutral pooled vector [D]."""
        ...

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled vectors [B, D] -> logits [B, asked terms]."""
        ...


@dataclass(frozen=True, slots=True)
class Completeness:
    """How exactly the parts sum to the whole.

    `error` is |attributed - explained| / max(|explained|, 0.05), with `explained` = F(x) - F(x').
    """

    explained: float
    attributed: float
    error: float
    tolerance: float
    steps: int
    converged: bool


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each input adds to one logit.

    `values` is [residues], [nodes, channels] or [residues, 20 amino acids]; NaN where the model never
    sees the input, or where a substitution was not scanned. `score` is F(x), `reference` is F(x') (None
    where the method compares with no baseline). `standard_errors` has the shape of `values`. `note`
    says what the values are not.
    """

    values: FloatArray
    score: float
    reference: float | None
    completeness: Completeness | None
    standard_errors: FloatArray | None = None
    agreement: float | None = None  # rank correlation with a cheaper method's values of the same thing
    note: str | None = None


class Explainer(Protocol):
    """One entry of EXPLAINERS. Instances hold options only and may be shared."""

    name: ClassVar[str]
    subject: ClassVar[Subject]

    @property
    def label(self) -> str:
        """The name with those options that change the values, such as `occlusion_5`."""
        ...

    def accepts(self, path: Path) -> bool:
        """Whether the method can explain this path."""
        ...

    def work(self, path: Path) -> int:
        """Upper bound of the units that `attribute` will report to `advance`."""
        ...

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """One attribution per asked term, in the order of the path's columns."""
        ...


def residue_path(path: Path) -> ResiduePath:
    """The path itself.

    Raises:
        TypeError: it has no residues.
    """
    if not isinstance(path, ResiduePath):
        raise TypeError(f"{path.model} has no residues to attribute to")
    return path


def finite_sum(values: FloatArray) -> float:
    """Sum over what the model sees."""
    return float(np.nansum(values))
