"""The stacker: level-1 scores + GO graph -> term scores.

Per aspect and fold, a score is a linear blend of the level-1 logits plus a correction by a graph
network over the aspect's terms. The network's last layer starts at zero, so that an untrained stacker
is exactly the blend, and training can only be kept where held-out proteins say that it helps.

Letters in trailing comments: B proteins, T terms of the aspect, C channels, M level-1 models, H hidden.

Source of the messages (mean and maximum over children, parents and both): ProtBoost, CAFA5 2nd place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

from shared.digests import digest_of, digest_of_lines
from shared.errors import IntegrityError, MissingInput
from shared.models.channels import Channels, CrossAspect, check_width
from shared.models.features import FloatArray, IntArray
from shared.nn.term_graph import Edge, TermGraph
from shared.ontology import ASPECTS

BLOCK = 32  # proteins scored at once; always filled up, so that a score never depends on its neighbours
PRIORS = 2  # of a term: alone, and given any of its parents


@dataclass(frozen=True, slots=True)
class StackerShape:
    """Sizes of the graph network."""

    hidden: int
    embedding: int
    layers: int
    dropout: float = 0.0
    goa_dropout: float = 0.0


class GraphLayer(nn.Module):
    """One round of messages, added to the terms' state."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.receive = nn.Linear(7 * hidden, hidden)
        self.update = nn.Linear(hidden, hidden)
        # A feature is dropped for all terms of a protein: per-entry noise would cost as much as the layer.
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: torch.Tensor, graph: TermGraph) -> torch.Tensor:
        """State [T, B, H] -> [T, B, H]."""
        received = torch.cat([state, *graph.messages(state)], dim=-1)
        update: torch.Tensor = torch.relu(self.receive(received))
        if self.training:
            update = update * self.dropout(torch.ones_like(update[:1]))
        correction: torch.Tensor = self.update(update)
        return state + correction


class AspectStacker(nn.Module):
    """The stacker of one aspect, fitted once.

    Args:
        channels: what it sees; the last axis of its input.
        terms: terms of the aspect.
        edges: (child, parent) positions among them.
        shape: sizes of the network.
    """

    centre: torch.Tensor
    spread: torch.Tensor
    priors: torch.Tensor

    def __init__(self, channels: Channels, terms: int, edges: Sequence[Edge], shape: StackerShape) -> None:
        super().__init__()
        models = len(channels.models)
        self.models, self.goa_dropout = models, shape.goa_dropout
        self.goa_part, self.cross_part = channels.goa_part, channels.cross_part
        self.graph = TermGraph(edges, terms)
        self.blend = nn.Parameter(torch.full((models,), 1.0 / models))
        self.blend_missing = nn.Parameter(torch.zeros(()))
        self.term_scale = nn.Parameter(torch.zeros(terms))
        self.term_bias = nn.Parameter(torch.zeros(terms))
        self.cross_blend = nn.Parameter(torch.zeros(terms, channels.cross)) if channels.cross else None
        scores = models + 3 + PRIORS
        self.register_buffer("priors", torch.zeros(PRIORS, terms))  # logits
        self.register_buffer("centre", torch.zeros(scores))
        self.register_buffer("spread", torch.full((scores,), 4.0))
        self.embedding = nn.Embedding(terms, shape.embedding)
        self.place = nn.Linear(shape.embedding, shape.hidden, bias=False)
        self.enter = nn.Linear(scores + 1 + len(channels.goa), shape.hidden)
        self.layers = nn.ModuleList(GraphLayer(shape.hidden, shape.dropout) for _ in range(shape.layers))
        self.gate = nn.Linear(shape.hidden, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    @property
    def blend_parameters(self) -> list[nn.Parameter]:
        """The linear blend of the aspect's own scores: fitted first, then kept; `cross_blend` is fitted on top of it."""
        return [self.blend, self.blend_missing, self.term_scale, self.term_bias]

    def base(self, channels: torch.Tensor) -> torch.Tensor:
        """The blend alone: channels [T, B, C] -> logits [T, B]."""
        scores = channels[..., : self.models]
        shared = scores @ self.blend + self.blend_missing * channels[..., self.models]
        base = shared + self.term_scale[:, None] * scores.mean(-1) + self.term_bias[:, None]
        if self.cross_blend is None:
            return base
        return base + (channels[..., self.cross_part] * self.cross_blend[:, None, :]).sum(-1)

    def score_features(self, channels: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """Everything on the logit scale [T, B, M + 5]: scores, blend, its true-path bounds, priors."""
        scores = channels[..., : self.models]
        highest, lowest = self.graph.true_path(scores.mean(-1).contiguous())
        priors = self.priors.t()[:, None, :].expand(*base.shape, PRIORS)
        return torch.cat([scores, torch.stack([base, highest, lowest], dim=-1), priors], dim=-1)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        """Channels [B, T, C] -> logits [B, T]; differentiable in both channels and weights."""
        by_term = channels.transpose(0, 1).contiguous()  # [T, B, C]
        base = self.base(by_term)
        scores = (self.score_features(by_term, base) - self.centre) / self.spread
        state = torch.relu(self.enter(torch.cat([scores, self._rest(by_term)], dim=-1)) + self._places())
        for layer in self.layers:
            state = layer(state, self.graph)
        correction: torch.Tensor = self.gate(state).squeeze(-1)
        return (base + correction).t()

    def _places(self) -> torch.Tensor:
        places: torch.Tensor = self.place(self.embedding.weight)
        return places[:, None, :]  # [T, 1, H]

    def _rest(self, by_term: torch.Tensor) -> torch.Tensor:
        """Missing flag and GOA channels; in training, a protein loses all of the latter with `goa_dropout`."""
        missing, goa = by_term[..., self.models : self.models + 1], by_term[..., self.goa_part]
        if self.training and goa.shape[-1] > 0 and self.goa_dropout > 0:
            kept = torch.rand(1, goa.shape[1], 1, device=goa.device) >= self.goa_dropout
            goa = goa * kept
        return torch.cat([missing, goa], dim=-1)


@dataclass(frozen=True, slots=True)
class StackerLayout:
    """Terms, graph and sizes of a stacker: everything about it that is not fitted by gradient.

    `columns` are the terms' positions among the level-1 terms; `missing_rate` is the share of folds
    whose level-1 models never fitted the term; `edges` hold positions within the aspect's terms.
    """

    terms: tuple[str, ...]
    aspects: tuple[str, ...]
    columns: tuple[int, ...]
    level1_terms: int
    level1_digest: str
    channels: Channels
    missing_rate: tuple[float, ...]
    edges: Mapping[str, tuple[Edge, ...]]
    folds: tuple[int, ...]
    shape: StackerShape

    def of_aspect(self, aspect: str) -> IntArray:
        """Positions of the aspect's terms among the stacker's."""
        return np.flatnonzero(np.asarray(self.aspects, dtype=np.str_) == aspect)

    def other_columns(self, aspect: str) -> IntArray:
        """Level-1 columns of the stacker's terms of the other aspects, in the stacker's order."""
        others = np.flatnonzero(np.asarray(self.aspects, dtype=np.str_) != aspect)
        return np.asarray(self.columns, np.int64)[others]

    @property
    def scored_aspects(self) -> tuple[str, ...]:
        """The aspects that have any term."""
        return tuple(aspect for aspect in ASPECTS if aspect in self.edges)

    def network(self, aspect: str) -> AspectStacker:
        """An unfitted stacker of one aspect."""
        return AspectStacker(self.channels, len(self.of_aspect(aspect)), self.edges[aspect], self.shape)

    def to_json(self) -> dict[str, Any]:
        """Plain values; part of `models/stacker.json`."""
        edges = {aspect: [list(edge) for edge in pairs] for aspect, pairs in self.edges.items()}
        return {
            "terms": list(self.terms),
            "aspects": list(self.aspects),
            "level1_columns": list(self.columns),
            "level1_terms": self.level1_terms,
            "level1_digest": self.level1_digest,
            "models": list(self.channels.models),
            "goa_channels": list(self.channels.goa),
            "cross_components": self.channels.cross,
            "channels": list(self.channels.names),
            "missing_rate": list(self.missing_rate),
            "edges": edges,
            "edges_digest": digest_of("stacker-edges", edges),
            "folds": list(self.folds),
            "network": asdict(self.shape),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; other keys are ignored.

        Raises:
            IntegrityError: the edges are not those that were hashed.
        """
        if digest_of("stacker-edges", document["edges"]) != document["edges_digest"]:
            raise IntegrityError("the stacker's graph is not the one it was fitted on", where="models/stacker.json")
        return cls(
            terms=tuple(document["terms"]),
            aspects=tuple(document["aspects"]),
            columns=tuple(document["level1_columns"]),
            level1_terms=int(document["level1_terms"]),
            level1_digest=str(document["level1_digest"]),
            channels=Channels(
                tuple(document["models"]),
                tuple(document["goa_channels"]),
                int(document.get("cross_components", 0)),
            ),
            missing_rate=tuple(float(rate) for rate in document["missing_rate"]),
            edges={name: tuple((int(c), int(p)) for c, p in pairs) for name, pairs in document["edges"].items()},
            folds=tuple(int(fold) for fold in document["folds"]),
            shape=StackerShape(**document["network"]),
        )

    def check_level1_terms(self, terms: Sequence[str]) -> None:
        """Refuse level-1 columns other than those the stacker was fitted on.

        Raises:
            IntegrityError: another list of terms, or another order.
        """
        if digest_of_lines(terms) != self.level1_digest:
            raise IntegrityError(
                "level-1 terms are not those of the stacker",
                where="features/level1_terms.json",
                remedy="Use level-1 models and stacker of the same run",
            )


class StackerEnsemble:
    """All folds' stackers; a score is the mean of their logits.

    Args:
        layout: what they share.
        networks: fold -> aspect -> fitted stacker.
        device: where they compute.
        cross: aspect -> what its stacker sees of the others; needed where the layout has such channels.
    """

    def __init__(
        self,
        layout: StackerLayout,
        networks: Mapping[int, Mapping[str, AspectStacker]],
        device: str = "cpu",
        cross: Mapping[str, CrossAspect] | None = None,
    ) -> None:
        self.layout, self.device, self.cross = layout, device, dict(cross or {})
        self.networks = {
            fold: {aspect: network.to(device).eval() for aspect, network in by_aspect.items()}
            for fold, by_aspect in networks.items()
        }

    @classmethod
    def restore(cls, document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Self:
        """Rebuild from `models/stacker.json` and the tensors of `models/stacker.pth`.

        Raises:
            IntegrityError: tensors are missing, left over or of another shape.
        """
        layout = StackerLayout.from_json(document)
        networks = {
            fold: {
                aspect: load_network(layout, aspect, tensors_under(tensors, f"fold{fold}/{aspect}/"))
                for aspect in layout.scored_aspects
            }
            for fold in layout.folds
        }
        return cls(layout, networks, device, restored_cross(layout, tensors))

    def logits(
        self,
        level1: Mapping[str, npt.NDArray[np.floating]],
        goa: Mapping[str, sparse.csr_array] | None = None,
        *,
        fold: int | None = None,
        missing: FloatArray | None = None,
    ) -> FloatArray:
        """Scores [protein, term] in the stacker's term order, float32.

        Args:
            level1: model -> logits [protein, level-1 term], of any float type.
            goa: kind -> scores [protein, stacker term]; None means no annotation.
            fold: only this fold's stacker, for out-of-fold scores; None takes the mean over folds.
            missing: [stacker term], instead of the layout's `missing_rate`.
        """
        layout = self.layout
        check_width(level1, layout.level1_terms)
        proteins = next(iter(level1.values())).shape[0]
        result = np.zeros((proteins, len(layout.terms)), np.float32)
        with torch.inference_mode(), float32_only(self.device):
            for start in range(0, proteins, BLOCK):
                rows = slice(start, min(start + BLOCK, proteins))
                part = {name: matrix[rows] for name, matrix in level1.items()}
                marks = None if goa is None else {kind: matrix[rows] for kind, matrix in goa.items()}
                for aspect in layout.scored_aspects:
                    inputs = _filled(self.channel_inputs(aspect, part, marks, missing=missing))
                    scores = self.forward(aspect, inputs, fold=fold)[: rows.stop - start]
                    result[rows, layout.of_aspect(aspect)] = scores.cpu().numpy()
        return result

    def channel_inputs(
        self,
        aspect: str,
        level1: Mapping[str, npt.NDArray[np.floating]],
        goa: Mapping[str, sparse.csr_array] | None = None,
        *,
        missing: FloatArray | None = None,
    ) -> torch.Tensor:
        """What `forward` takes: [protein, term of the aspect, channel], names in `layout.channels.names`."""
        layout, of_aspect = self.layout, self.layout.of_aspect(aspect)
        columns = np.asarray(layout.columns, np.int64)[of_aspect]
        rates = np.asarray(layout.missing_rate, np.float32) if missing is None else missing
        marks = None if goa is None else {kind: matrix[:, of_aspect] for kind, matrix in goa.items()}
        cross = self.cross[aspect].of({name: level1[name] for name in layout.channels.models}) if self.cross else None
        stacked = layout.channels.stack(level1, rates[of_aspect], marks, columns, cross)
        return torch.from_numpy(stacked).to(self.device)

    def forward(self, aspect: str, channels: torch.Tensor, *, fold: int | None = None) -> torch.Tensor:
        """Mean logits [protein, term of the aspect] over folds; differentiable in `channels`."""
        folds = self.layout.folds if fold is None else (fold,)
        total: torch.Tensor = self.networks[folds[0]][aspect](channels)
        for number in folds[1:]:
            total = total + self.networks[number][aspect](channels)
        return total / len(folds)

    def prior_logits(self) -> torch.Tensor:
        """[stacker term], how frequent each was among the proteins that fitted it; mean over folds."""
        priors = torch.zeros(len(self.layout.terms), device=self.device)
        for aspect in self.layout.scored_aspects:
            each = [by_aspect[aspect].priors[0] for by_aspect in self.networks.values()]
            priors[self.layout.of_aspect(aspect)] = torch.stack(each).mean(0)
        return priors

    def uninformed(self, aspect: str) -> torch.Tensor:
        """Channels [term of the aspect, channel] of a protein of which nothing is known.

        Every model gives the term's prior, nothing is annotated: a neutral point to explain against.
        """
        layout, of_aspect = self.layout, self.layout.of_aspect(aspect)
        priors = self.prior_logits()
        channels = torch.zeros(len(of_aspect), len(layout.channels), device=self.device)
        channels[:, : len(layout.channels.models)] = priors[of_aspect, None]
        if self.cross:
            cross = self.cross[aspect]
            others = priors[np.asarray(layout.aspects, dtype=np.str_) != aspect].cpu().numpy()
            channels[:, layout.channels.cross_part] = torch.from_numpy((others - cross.mean) @ cross.directions)
        rates = np.asarray(layout.missing_rate, np.float32)[of_aspect]
        channels[:, len(layout.channels.models)] = torch.from_numpy(rates).to(self.device)
        return channels


def load_network(layout: StackerLayout, aspect: str, tensors: Mapping[str, torch.Tensor]) -> AspectStacker:
    """A fitted stacker of one aspect from its own tensors.

    Raises:
        IntegrityError: tensors are missing, left over or of another shape.
    """
    network = layout.network(aspect)
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise IntegrityError(
            f"tensors do not fit the stacker of {aspect}: {error}", where="models/stacker.pth", remedy="Fit it again"
        ) from error
    return network.eval()


def cross_tensors(cross: Mapping[str, CrossAspect]) -> dict[str, torch.Tensor]:
    """What `models/stacker.pth` keeps of them; their columns follow from the layout."""
    return {
        f"cross/{aspect}/{name}": torch.from_numpy(np.ascontiguousarray(getattr(of, name)))
        for aspect, of in cross.items()
        for name in ("mean", "directions")
    }


def restored_cross(layout: StackerLayout, tensors: Mapping[str, torch.Tensor]) -> dict[str, CrossAspect]:
    """The inverse of `cross_tensors`; empty where the layout has no such channels.

    Raises:
        MissingInput: an aspect has none.
        IntegrityError: of another shape.
    """
    found = {}
    for aspect in layout.scored_aspects if layout.channels.cross else ():
        own, columns = tensors_under(tensors, f"cross/{aspect}/"), layout.other_columns(aspect)
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        wanted = {"mean": (len(columns),), "directions": (len(columns), layout.channels.cross)}
        if shapes != wanted:
            raise IntegrityError(
                f"tensors of {shapes} for the other aspects of {aspect}, not {wanted}",
                where="models/stacker.pth",
                remedy="Fit the stacker again",
            )
        found[aspect] = CrossAspect(columns, own["mean"].cpu().numpy(), own["directions"].cpu().numpy())
    return found


def tensors_under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names start with `prefix`, without it.

    Raises:
        MissingInput: there is none.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not found:
        raise MissingInput(f"no tensors {prefix}*", where="models/stacker.pth", remedy="Fit the stacker again")
    return found


@contextmanager
def float32_only(device: str) -> Iterator[None]:
    """Sparse products know no bfloat16: keep the stacker out of any autocast around it."""
    with torch.autocast(torch.device(device).type, enabled=False):
        yield


def _filled(channels: torch.Tensor) -> torch.Tensor:
    """Up to BLOCK proteins, by repeating the last: matrix products may round by their shape."""
    lacking = BLOCK - channels.shape[0]
    return channels if lacking <= 0 else torch.cat([channels, channels[-1:].expand(lacking, -1, -1)])
