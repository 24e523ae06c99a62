"""The multi-label network over pooled vectors: input blocks per modality, a trunk, a head per term group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from shared.models.base import LOGIT_LIMIT
from shared.models.feature_space import TAXON, FeatureSpace
from shared.models.features import Features, FloatArray, IntArray
from shared.nn.term_chain import TermChain, edges_record, restored_edges
from shared.nn.term_graph import Edge
from shared.nn.transforms import Version, row_blocks, transform_vectors

PREDICTION_ROWS = 1024


class _Permuted(torch.autograd.Function):
    """Columns in another order. The gradient is the inverse order; torch's own adds column by column."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order, inverse)
        return values.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        back: torch.Tensor = _Permuted.apply(gradients[0], inverse, order)
        return back, None, None


class HeadRegistry(nn.ModuleDict):
    """Output layers by term group (an aspect); logits come in the column order of the terms.

    Args:
        width: dimension of the trunk's output.
        groups: the group of each term, in column order.
    """

    def __init__(self, width: int, groups: Sequence[str]) -> None:
        names = sorted(set(groups))
        super().__init__({name: nn.Linear(width, list(groups).count(name)) for name in names})
        joined = [column for name in names for column, group in enumerate(groups) if group == name]
        self.order: torch.Tensor
        self.inverse: torch.Tensor
        self.register_buffer("order", torch.from_numpy(np.argsort(joined)), persistent=False)
        self.register_buffer("inverse", torch.tensor(joined, dtype=torch.int64), persistent=False)
        self.columns = {name: [column for column, group in enumerate(groups) if group == name] for name in names}

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Trunk output [batch, width] -> logits [batch, term]."""
        joined = torch.cat([head(hidden) for head in self.values()], dim=1)
        logits: torch.Tensor = _Permuted.apply(joined, self.order, self.inverse)
        return logits

    @torch.no_grad()
    def set_constant(self, columns: npt.NDArray[np.bool_], logits: FloatArray) -> None:
        """Make some terms constant: the given logit whatever the protein."""
        for name, head in self.items():
            if not isinstance(head, nn.Linear):
                continue
            own = np.asarray(self.columns[name])
            chosen = torch.from_numpy(columns[own])
            head.weight[chosen] = 0.0
            head.bias[chosen] = torch.from_numpy(logits[own])[chosen].to(head.bias)

    @torch.no_grad()
    def set_bias(self, logits: FloatArray) -> None:
        """Start every term at the given logit."""
        for name, head in self.items():
            if isinstance(head, nn.Linear):
                head.bias.copy_(torch.from_numpy(logits[np.asarray(self.columns[name])]))


class InputBlock(nn.Module):
    """One modality: its transform (see `transform_vectors`), then a linear layer; without the layer's own bias.

    The transform is inside, so that gradients reach the raw vector.
    """

    def __init__(
        self, dimension: int, width: int, version: Version, mean: FloatArray | None, std: FloatArray | None
    ) -> None:
        super().__init__()
        self.version: Version = version
        self.mean: torch.Tensor | None
        self.std: torch.Tensor | None
        self.register_buffer("mean", None if mean is None else torch.from_numpy(mean), persistent=False)
        self.register_buffer("std", None if std is None else torch.from_numpy(std), persistent=False)
        self.linear = nn.Linear(dimension, width)

    def forward(self, vectors: torch.Tensor, *, unit: bool = False) -> torch.Tensor:
        """Raw vectors [batch, dimension] -> [batch, width].

        `unit` vectors are of v2's length already: a line from the zero vector, as explanations follow it, has
        no length to divide by at its start.
        """
        version: Version = "v1" if unit else self.version
        hidden: torch.Tensor = self.linear(transform_vectors(vectors, version, self.mean, self.std))
        return hidden


class MlpNetwork(nn.Module):
    """Input blocks -> concatenated -> two normalised layers with a skip -> heads -> the chain, where there are `edges`."""

    def __init__(
        self,
        space: FeatureSpace,
        groups: Sequence[str],
        hidden: int,
        dropout: float,
        modality_dropout: float = 0.0,
        *,
        edges: Sequence[Edge] | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.hidden, self.rate, self.modality_dropout = tuple(groups), hidden, dropout, modality_dropout
        self.names = tuple(space.blocks)
        blocks: dict[str, nn.Module] = {}
        for name, dimension in space.blocks.items():
            version = "v1" if name == TAXON else space.transform.version
            blocks[name] = InputBlock(
                dimension, hidden, version, space.transform.mean.get(name), space.transform.std.get(name)
            )
        self.inputs = nn.ModuleDict(blocks)
        joined = hidden * max(1, len(blocks))
        self.enter = nn.Sequential(nn.LayerNorm(joined), nn.GELU(), nn.Dropout(dropout), nn.Linear(joined, hidden))
        self.deepen = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden))
        self.leave = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.heads = HeadRegistry(hidden, groups)
        self.chain = None if edges is None else TermChain(edges, len(groups))

    def forward(self, blocks: Mapping[str, torch.Tensor], unit: Collection[str] = ()) -> torch.Tensor:
        """Raw vectors by block name, float32 [batch, dimension] -> logits [batch, term]; see `InputBlock` for `unit`."""
        fitted = self.fitted(blocks, unit)
        if self.chain is None:
            return fitted
        logits: torch.Tensor = self.chain(fitted)
        return logits

    def fitted(self, blocks: Mapping[str, torch.Tensor], unit: Collection[str] = ()) -> torch.Tensor:
        """What the loss compares with the targets: `forward` before the chain."""
        entered = [self.inputs[name](blocks[name], unit=name in unit) for name in self.names]
        joined = torch.cat(self._thinned(entered), dim=1)
        hidden = self.enter(joined)
        hidden = hidden + self.deepen(hidden)
        logits: torch.Tensor = self.heads(self.dropout(functional.gelu(self.leave(hidden))))
        return logits

    def _thinned(self, entered: list[torch.Tensor]) -> list[torch.Tensor]:
        """In training, a protein loses each block with `modality_dropout`, but never all; the others are scaled up."""
        if not self.training or self.modality_dropout == 0 or len(entered) < 2:
            return entered
        kept = torch.rand(len(entered[0]), len(entered), device=entered[0].device) >= self.modality_dropout
        kept[~kept.any(dim=1)] = True
        weights = kept * (len(entered) / kept.sum(dim=1, keepdim=True))
        return [block * weights[:, place, None] for place, block in enumerate(entered)]


class MlpModel:
    """A fitted MLP: `network` maps the raw blocks of `space` to logits."""

    kind: ClassVar[str] = "mlp"
    is_torch: ClassVar[bool] = True

    def __init__(self, network: MlpNetwork, space: FeatureSpace, terms: tuple[str, ...]) -> None:
        self.network, self.space, self.terms = network.eval(), space, terms

    def blocks(self, features: Features, rows: IntArray) -> dict[str, torch.Tensor]:
        """The network's input for some proteins, on the network's device."""
        return raw_blocks(self.space, features, rows, next(self.network.parameters()).device)

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), term]."""
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        with torch.no_grad():
            for place, block in row_blocks(rows, PREDICTION_ROWS):
                scores[place] = (
                    self.network(self.blocks(features, block)).clamp(-LOGIT_LIMIT, LOGIT_LIMIT).cpu().numpy()
                )
        return scores

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The network's parameters and the transform."""
        state = {f"network.{name}": tensor.detach().cpu().numpy() for name, tensor in self.network.state_dict().items()}
        return {**state, **self.space.arrays()}

    def architecture(self) -> dict[str, Any]:
        """Sizes, terms and the feature specification."""
        network = self.network
        return {
            "terms": list(self.terms),
            "groups": list(network.groups),
            "hidden": network.hidden,
            "dropout": network.rate,
            **edges_record(network.chain),
            **self.space.architecture(),
        }

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild on the CPU."""
        space = FeatureSpace.restore(architecture, arrays)
        network = MlpNetwork(
            space,
            architecture["groups"],
            int(architecture["hidden"]),
            float(architecture["dropout"]),
            edges=restored_edges(architecture),
        )
        prefix = "network."
        network.load_state_dict(
            {
                name.removeprefix(prefix): torch.from_numpy(np.array(array))
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
        )
        return cls(network, space, tuple(architecture["terms"]))


def raw_blocks(
    space: FeatureSpace, features: Features, rows: IntArray, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Untransformed input blocks of some proteins, float32 [len(rows), dimension] by block name."""
    arrays = {modality: space.raw(features, rows, modality) for modality in space.dims}
    if TAXON in space.blocks:
        arrays[TAXON] = space.one_hot_taxa(features, rows)
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
