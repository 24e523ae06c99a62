"""From residues, or from stacker channels, to the logits that a run stored: what the explainers explain.

A path holds one protein and the asked terms. Its function is the mean over fold models of the logit:
what the stored score is. A train protein that was fitted on is scored by the one fold model that
never saw it, and so is its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from services.xai_worker.explainers.base import BoolArray
from services.xai_worker.stored import Place, StoredRun
from shared.models.base import LOGIT_LIMIT, Level1Model
from shared.models.calibration import Calibration
from shared.models.features import Features
from shared.nn.encoders import Encoder
from shared.nn.heads import MlpModel
from shared.nn.stacker import StackerEnsemble, float32_only

SEQUENCE_ENCODERS = ("esm2", "t5")


class Bundle(Protocol):
    """What is used of a loaded model bundle; `shared.models.trained.TrainedModel` is one."""

    @property
    def level1(self) -> Mapping[str, Sequence[Level1Model]]:
        """Fold models in fold order; one entry for a vote."""
        ...

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """Sequence encoders by modality."""
        ...

    @property
    def stacker(self) -> StackerEnsemble:
        """All folds' stackers."""
        ...

    @property
    def calibration(self) -> Calibration:
        """From stacker logits to probabilities."""
        ...


@runtime_checkable
class SequenceModel(Protocol):
    """A level-1 model that reads the residues themselves."""

    terms: tuple[str, ...]

    def embed_tokens(self, sequence: str) -> Tensor:
        """Residue embeddings [L, D]."""
        ...

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        """Residue embeddings [B, L, D] -> logits [B, term]; differentiable."""
        ...

    def mean_residue(self) -> Tensor:
        """Mean embedding [D] of the twenty amino acids."""
        ...

    def masked_logits(self, sequence: str, positions: Sequence[int]) -> Tensor:
        """Logits [term] with mask tokens at the 0-based positions."""
        ...


@runtime_checkable
class CheckedPath(Protocol):
    """A path whose score can be compared with the stored one."""

    def stored_scale(self) -> Tensor:
        """F(x) [asked terms] as the run would store it; stage 7 limits every fold's logit, then takes the mean."""
        ...


class SequencePath:
    """Residues -> CNN. Each fold has its own embedding table, so the tables stand side by side.

    Args:
        name: what the path is called in results.
        members: fold models.
        sequence: the protein.
        columns: the asked terms' positions among the members' terms.
    """

    def __init__(self, name: str, members: Sequence[SequenceModel], sequence: str, columns: Sequence[int]) -> None:
        self.model, self.members, self.sequence, self.columns = name, members, sequence, list(columns)
        self.covered: BoolArray = np.ones(len(sequence), bool)

    def inputs(self) -> Tensor:
        """[1, residues, sum of the members' widths]."""
        return torch.cat([member.embed_tokens(self.sequence).detach() for member in self.members], dim=-1)[None]

    def baseline(self) -> Tensor:
        """The mean amino acid of each member at every residue."""
        means = torch.cat([member.mean_residue().detach() for member in self.members])
        return means.expand(1, len(self.sequence), -1).clone()

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, residues, widths] -> [B, asked terms]."""
        return torch.stack(list(self._member_logits(inputs))).mean(0)

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """[groups, asked terms]."""
        with torch.inference_mode():
            rows = [
                torch.stack([member.masked_logits(self.sequence, group)[self.columns] for member in self.members])
                for group in groups
            ]
            return torch.stack(rows).mean(1)

    def stored_scale(self) -> Tensor:
        """[asked terms]."""
        with torch.inference_mode():
            return _limited_mean(self._member_logits(self.inputs()))

    def _member_logits(self, inputs: Tensor) -> Iterator[Tensor]:
        widths = [member.mean_residue().shape[0] for member in self.members]
        for member, own in zip(self.members, torch.split(inputs, widths, dim=-1), strict=True):
            yield member.forward_embedded(own)[:, self.columns]


class PooledPath:
    """Residues -> encoder -> pooled vector -> MLP, with the protein's other modalities held fixed.

    Args:
        modality: the encoder's place among the features, such as esm2.
        encoder: the sequence encoder of that modality.
        members: fold models.
        features: one protein, row 0.
        columns: the asked terms' positions among the members' terms.
    """

    def __init__(
        self, modality: str, encoder: Encoder, members: Sequence[MlpModel], features: Features, columns: Sequence[int]
    ) -> None:
        self.model, self.modality, self.encoder, self.members = f"mlp/{modality}", modality, encoder, members
        self.sequence, self.columns = features.sequences[0], list(columns)
        self.covered: BoolArray = np.ones(len(self.sequence), bool)
        row = np.zeros(1, np.int64)
        self.fixed = [member.blocks(features, row) for member in members]
        for member in members:
            member.network.requires_grad_(False)

    def inputs(self) -> Tensor:
        """[1, residues, D]."""
        return self.encoder.embed_tokens(self.sequence).detach()[None]

    def baseline(self) -> Tensor:
        """The mean amino acid at every residue; special tokens are the encoder's own and stay."""
        return self.encoder.mean_residue().detach().expand(1, len(self.sequence), -1).clone()

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, residues, D] -> [B, asked terms]."""
        return torch.stack(list(self._member_logits(self.encoder.forward_embedded(inputs)))).mean(0)

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """[groups, asked terms]; the encoder sees its own mask token, as it was trained to read it."""
        with torch.inference_mode():
            pooled = torch.stack([self.encoder.masked(self.sequence, group) for group in groups])
            return torch.stack(list(self._member_logits(pooled))).mean(0)

    def pooled(self) -> npt.NDArray[np.float32]:
        """The recomputed embedding [dim], to compare with the stored one."""
        with torch.inference_mode():
            vector: npt.NDArray[np.float32] = self.encoder.forward_embedded(self.inputs())[0].float().cpu().numpy()
        return vector

    def stored_scale(self) -> Tensor:
        """[asked terms]."""
        with torch.inference_mode():
            return _limited_mean(self._member_logits(self.encoder.forward_embedded(self.inputs())))

    def _member_logits(self, pooled: Tensor) -> Iterator[Tensor]:
        for member, fixed in zip(self.members, self.fixed, strict=True):
            blocks = {name: block.expand(len(pooled), -1) for name, block in fixed.items()}
            # The encoder may compute on another device than the small network behind it.
            blocks[self.modality] = pooled.to(fixed[self.modality].device)
            yield member.network(blocks)[:, self.columns]


class StackerPath:
    """Channels of one aspect -> the stacker's logits.

    Args:
        stacker: all folds.
        aspect: the asked terms' aspect.
        channels: the protein's channels, [1, term of the aspect, channel].
        columns: the asked terms' positions among the aspect's terms.
        fold: only this fold's stacker; None takes the mean.
    """

    def __init__(
        self, stacker: StackerEnsemble, aspect: str, channels: Tensor, columns: Sequence[int], fold: int | None
    ) -> None:
        self.model, self.stacker, self.aspect = "stacker", stacker, aspect
        self.channels, self.columns, self.fold = channels, list(columns), fold
        for by_aspect in stacker.networks.values():
            by_aspect[aspect].requires_grad_(False)

    def inputs(self) -> Tensor:
        """[1, term of the aspect, channel]."""
        return self.channels

    def baseline(self) -> Tensor:
        """Every model says the prior, nothing is annotated; whether a term was fitted is no fact of the protein."""
        neutral = self.stacker.uninformed(self.aspect)[None].clone()
        missing = len(self.stacker.layout.channels.models)
        neutral[..., missing] = self.channels[..., missing]
        return neutral.detach()

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, term of the aspect, channel] -> [B, asked terms]."""
        with float32_only(self.stacker.device):
            return self.stacker.forward(self.aspect, inputs, fold=self.fold)[:, self.columns]

    def stored_scale(self) -> Tensor:
        """[asked terms]; stage 8 limits nothing."""
        with torch.inference_mode():
            return self.logits(self.inputs())[0]


def residue_models(bundle: Bundle) -> tuple[str, ...]:
    """Names of the paths from residues to a level-1 model that this bundle has."""
    found = [name for name, members in bundle.level1.items() if isinstance(members[0], SequenceModel)]
    for name, members in bundle.level1.items():
        first = members[0]
        if isinstance(first, MlpModel):
            found += [f"{name}/{m}" for m in SEQUENCE_ENCODERS if m in first.space.dims and m in bundle.encoders]
    return tuple(sorted(found))


def residue_path(
    bundle: Bundle, run: StoredRun, name: str, place: Place, terms: Sequence[str]
) -> SequencePath | PooledPath:
    """The path of one protein through one model; `name` is one of `residue_models`."""
    level1, _, modality = name.partition("/")
    members = _members(bundle, level1, place)
    columns = [members[0].terms.index(term) for term in terms]
    if modality:
        heads = [member for member in members if isinstance(member, MlpModel)]
        return PooledPath(modality, bundle.encoders[modality], heads, run.features(place), columns)
    readers = [member for member in members if isinstance(member, SequenceModel)]
    return SequencePath(name, readers, run.sequence(place), columns)


def stacker_path(
    bundle: Bundle,
    run: StoredRun,
    place: Place,
    *,
    aspect: str,
    terms: Sequence[str],
    goa: Mapping[str, sparse.csr_array],
) -> StackerPath:
    """The stacker's path of one protein and one aspect; `goa` is kind -> [1, stacker term]."""
    layout = bundle.stacker.layout
    missing = None if place.fold is None else run.missing_of_fold(place.fold)
    level1 = run.level1_logits(place, layout.channels.models)
    channels = bundle.stacker.channel_inputs(aspect, level1, goa, missing=missing)
    of_aspect = [layout.terms[i] for i in layout.of_aspect(aspect)]
    return StackerPath(bundle.stacker, aspect, channels, [of_aspect.index(term) for term in terms], place.fold)


def folds_of(bundle: Bundle, place: Place) -> list[int]:
    """The fold models whose logits are averaged for this protein."""
    return list(bundle.stacker.layout.folds) if place.fold is None else [place.fold]


def _members(bundle: Bundle, name: str, place: Place) -> Sequence[Level1Model]:
    members = bundle.level1[name]
    return members if place.fold is None else [members[bundle.stacker.layout.folds.index(place.fold)]]


def _limited_mean(logits: Iterator[Tensor]) -> Tensor:
    return torch.stack([member[0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT) for member in logits]).mean(0)
