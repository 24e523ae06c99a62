"""Which channels and which terms make the stacker's logit of one term.

Integrated gradients over the stacker's channel tensor [nodes, channels], from a baseline in which
every level-1 channel says no more than the prior. A node is a GO term, so each contribution has a
place in the graph relative to the explained term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from services.xai_worker.explainers.base import Advance, Attribution, BoolArray, FloatArray, Path, ResiduePath, Subject
from services.xai_worker.explainers.quadrature import Quadrature

Relation = Literal["self", "ancestors", "descendants", "other"]
RELATIONS: tuple[Relation, ...] = ("self", "ancestors", "descendants", "other")


@dataclass(frozen=True, slots=True)
class StackerParts:
    """Channel attributions that sum to F(x) - F(prior-only)."""

    name: ClassVar[str] = "stacker_parts"
    subject: ClassVar[Subject] = "channels"

    quadrature: Quadrature = field(default_factory=Quadrature)

    @property
    def label(self) -> str:
        """The name; its options change precision only."""
        return self.name

    def accepts(self, path: Path) -> bool:
        """Any path that is not of residues."""
        return not isinstance(path, ResiduePath)

    def work(self, path: Path) -> int:
        """One unit per asked term."""
        return int(path.logits(path.inputs()).shape[1])

    def attribute(self, path: Path, advance: Advance) -> list[Attribution]:
        """`values` is [nodes, channels], one attribution per asked term."""
        found = self.quadrature.integrate(path)
        advance(len(found))
        return found


@dataclass(frozen=True, slots=True)
class ChannelPart:
    """What one channel adds through one kind of term."""

    channel: str
    relation: Relation
    value: float


def parts_of(values: FloatArray, channels: Sequence[str], relations: Mapping[Relation, BoolArray]) -> list[ChannelPart]:
    """Sum [nodes, channels] over the nodes of each relation; together the parts keep the total.

    Args:
        values: what each (node, channel) adds.
        channels: column names; columns of the same name are one part.
        relations: node masks that are disjoint and cover every node.
    """
    columns: dict[str, list[int]] = {}
    for column, channel in enumerate(channels):
        columns.setdefault(channel, []).append(column)
    return [
        ChannelPart(channel, relation, float(values[relations[relation]][:, own].sum()))
        for channel, own in columns.items()
        for relation in RELATIONS
    ]
