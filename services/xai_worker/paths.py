"""From residues, or from stacker channels, to the logits that a run stored: what the explainers explain.

A path holds one protein and the asked terms. Its function is the mean over fold models of the logit:
what the stored score is. A train protein that was fitted on is scored by the one fold model that
never saw it, and so is its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from services.xai_worker.explainers.base import BoolArray
from services.xai_worker.readers import (
    MaskedCache,
    SequenceModel,
    embed_members,
    masked_members,
    masked_vectors,
    mean_members,
    member_logits,
)
from services.xai_worker.stored import Place, StoredRun
from shared.models.base import LOGIT_LIMIT, Level1Model
from shared.models.calibration import Calibration
from shared.models.features import Features
from shared.models.knn import Knn
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

    @property
    def metadata(self) -> Mapping[str, Any]:
        """`model_metadata.json`."""
        ...

    @property
    def references(self) -> tuple[list[str], list[str]]:
        """Ids and sequences of the proteins that vote, in train row order."""
        ...

    def knn_reference(self) -> Knn:
        """The labelled neighbours of the KNN correction."""
        ...

    def rare_scores(self, features: Features) -> sparse.csr_array | None:
        """The homology vote over the terms that the stacker does not score."""
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
        cache: of the protein's masked scores.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[SequenceModel],
        sequence: str,
        columns: Sequence[int],
        *,
        cache: MaskedCache | None = None,
    ) -> None:
        self.model, self.members, self.sequence, self.columns = name, members, sequence, list(columns)
        self.covered: BoolArray = np.ones(len(sequence), bool)
        self.cache = cache or MaskedCache()

    def with_sequence(self, sequence: str, cache: MaskedCache | None = None) -> SequencePath:
        """The same function of another sequence; `cache` is of that sequence."""
        return SequencePath(self.model, self.members, sequence, self.columns, cache=cache)

    def inputs(self) -> Tensor:
        """[1, residues, sum of the members' widths]."""
        return self.embed(self.sequence)

    def embed(self, sequence: str) -> Tensor:
        """The inputs [1, len(sequence), sum of the members' widths] of another sequence."""
        return embed_members(self.members, sequence)

    def baseline(self) -> Tensor:
        """The mean amino acid of each member at every residue."""
        return mean_members(self.members, len(self.sequence))

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, residues, widths] -> [B, asked terms]."""
        return torch.stack(list(self._member_logits(inputs))).mean(0)

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """[groups, asked terms]."""
        return masked_members(self.model, self.members, self.sequence, groups, self.cache).mean(1)[:, self.columns]

    def stored_scale(self) -> Tensor:
        """[asked terms]."""
        with torch.inference_mode():
            return _limited_mean(self._member_logits(self.inputs()))

    def _member_logits(self, inputs: Tensor) -> Iterator[Tensor]:
        for logits in member_logits(self.members, inputs):
            yield logits[:, self.columns]


class PooledPath:
    """Residues -> encoder -> pooled vector -> MLP, with the protein's other modalities held fixed.

    Args:
        modality: the encoder's place among the features, such as esm2.
        encoder: the sequence encoder of that modality.
        members: fold models.
        features: one protein, row 0.
        columns: the asked terms' positions among the members' terms.
        name: the members' name among the level-1 models.
        cache: of the protein's masked vectors.
        reference: neutral pooled vector [D], such as the mean of the train proteins; for `state_reference`.
    """

    def __init__(
        self,
        modality: str,
        encoder: Encoder,
        members: Sequence[MlpModel],
        features: Features,
        columns: Sequence[int],
        *,
        name: str = "mlp",
        cache: MaskedCache | None = None,
        reference: Callable[[], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        self.model, self.modality, self.encoder, self.members = f"{name}/{modality}", modality, encoder, members
        self.level1 = name
        self.features, self.reference = features, reference
        self.sequence, self.columns = features.sequences[0], list(columns)
        self.cache = cache or MaskedCache()
        self.covered: BoolArray = np.ones(len(self.sequence), bool)
        row = np.zeros(1, np.int64)
        self.fixed = [member.blocks(features, row) for member in members]
        for member in members:
            member.network.requires_grad_(False)

    def with_sequence(self, sequence: str, cache: MaskedCache | None = None) -> PooledPath:
        """The same function of another sequence; the protein's other modalities stay."""
        features = dataclasses.replace(self.features, sequences=[sequence])
        return PooledPath(
            self.modality,
            self.encoder,
            self.members,
            features,
            self.columns,
            name=self.level1,
            cache=cache,
            reference=self.reference,
        )

    def inputs(self) -> Tensor:
        """[1, residues, D]."""
        return self.embed(self.sequence)

    def embed(self, sequence: str) -> Tensor:
        """The inputs [1, len(sequence), D] of another sequence."""
        return self.encoder.embed_tokens(sequence).detach()[None]

    def states(self) -> Tensor:
        """Last hidden states [residues, D]; their mean is the pooled vector."""
        return self.encoder.residues(self.sequence).to(self.encoder.device)

    def state_reference(self) -> Tensor:
        """Mean pooled vector [D] of the train proteins; without them, that of the mean amino acid."""
        if self.reference is not None:
            return torch.from_numpy(self.reference()).to(self.encoder.device)
        with torch.inference_mode():
            return self.encoder.forward_embedded(self.baseline())[0]

    def head(self, pooled: Tensor) -> Tensor:
        """Pooled vectors [B, D] -> [B, asked terms]."""
        return torch.stack(list(self._member_logits(pooled))).mean(0)

    def baseline(self) -> Tensor:
        """The mean amino acid at every residue; special tokens are the encoder's own and stay."""
        return self.encoder.mean_residue().detach().expand(1, len(self.sequence), -1).clone()

    def logits(self, inputs: Tensor) -> Tensor:
        """[B, residues, D] -> [B, asked terms]."""
        return self.head(self.encoder.forward_embedded(inputs))

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """[groups, asked terms]; the encoder sees its own mask token, as it was trained to read it."""
        with torch.inference_mode():
            return self.head(masked_vectors(self.modality, self.encoder, self.sequence, groups, self.cache))

    def pooled(self) -> npt.NDArray[np.float32]:
        """The recomputed embedding [dim], to compare with the stored one."""
        vector: npt.NDArray[np.float32] = self._stored_vector()[0].float().cpu().numpy()
        return vector

    def explained(self) -> npt.NDArray[np.float32]:
        """The embedding [dim] that is explained: always float32, in whatever precision the run made its own."""
        with torch.inference_mode():
            vector: npt.NDArray[np.float32] = self.encoder.forward_embedded(self.inputs())[0].float().cpu().numpy()
        return vector

    def stored_scale(self) -> Tensor:
        """[asked terms]."""
        with torch.inference_mode():
            return _limited_mean(self._member_logits(self._stored_vector()))

    @torch.inference_mode()
    def _stored_vector(self) -> Tensor:
        """The embedding [1, dim] as the run made it; in float32 that is the function that is explained."""
        if self.encoder.dtype == "float32":
            return self.encoder.forward_embedded(self.inputs())
        return torch.from_numpy(self.encoder.embed([self.sequence])).to(self.encoder.device)

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
    bundle: Bundle, run: StoredRun, name: str, place: Place, terms: Sequence[str], *, cache: MaskedCache | None = None
) -> SequencePath | PooledPath:
    """The path of one protein through one model; `name` is one of `residue_models`."""
    level1, _, modality = name.partition("/")
    members = members_of(bundle, level1, place)
    columns = [members[0].terms.index(term) for term in terms]
    if modality:
        heads = [member for member in members if isinstance(member, MlpModel)]
        return PooledPath(
            modality,
            bundle.encoders[modality],
            heads,
            run.features(place),
            columns,
            name=level1,
            cache=cache,
            reference=lambda: run.mean_embedding(modality),
        )
    readers = [member for member in members if isinstance(member, SequenceModel)]
    return SequencePath(name, readers, run.sequence(place), columns, cache=cache)


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


def members_of(bundle: Bundle, name: str, place: Place) -> Sequence[Level1Model]:
    """The fold models that score this protein: all, or the one that never saw it; a vote has one."""
    members = bundle.level1[name]
    if place.fold is None or len(members) == 1:
        return members
    return [members[bundle.stacker.layout.folds.index(place.fold)]]


def _limited_mean(logits: Iterator[Tensor]) -> Tensor:
    return torch.stack([member[0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT) for member in logits]).mean(0)
