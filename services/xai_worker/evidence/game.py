"""The final score of every coalition of modalities: what a protein scores if only these are its own.

An absent modality takes the values of train proteins instead, one after the other (interventional
values). All coalitions, background proteins and asked terms go through the model as one batch.

The players are the encoders' vectors, the text and the taxon, which meet in the MLP, the logistic
regression and the KNN; the annotations (GOA); and each model that reads something else, by its scores
(the homology vote, the sequence CNN).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from services.xai_worker.paths import members_of
from services.xai_worker.whole import GOA, Known, WholePath
from shared.models.base import LOGIT_LIMIT, Level1Model
from shared.models.feature_space import TAXON
from shared.models.features import Features
from shared.models.knn import Knn
from shared.models.logreg import Logreg
from shared.models.reference import Reference
from shared.nn.heads import MlpModel
from shared.nn.stacker import float32_only

STACKED_ROWS = 128
FloatArray = npt.NDArray[np.float64]


class ModalityGame:
    """Scores of coalitions; a coalition is a bit mask over `players`.

    Args:
        paths: aspect -> path of the explained protein, whose terms are asked.
        known: the protein.
        background: train proteins.

    Raises:
        ValueError: no background protein.
    """

    def __init__(self, paths: Mapping[str, WholePath], known: Known, background: Sequence[Known]) -> None:
        if not background:
            raise ValueError("a coalition needs background proteins")
        self.paths, self.known, self.background = paths, known, background
        first = next(iter(paths.values()))
        self.bundle, self.run = first.bundle, first.run
        channels = self.bundle.stacker.layout.channels
        self.members = {name: self._members(name) for name in channels.models}
        self.mixed = [name for name, m in self.members.items() if isinstance(m[0], MlpModel | Logreg | Knn)]
        dims = {m for name in self.mixed for member in self.members[name] for m in member.space.dims}  # type: ignore[attr-defined]
        taxa = any(TAXON in member.space.blocks for name in self.mixed for member in self.members[name])  # type: ignore[attr-defined]
        self.features = [*sorted(dims), *([TAXON] if taxa else [])]
        # The taxon prior reads nothing but the taxon: it plays with that modality, under the same name.
        own = [name for name in channels.models if name not in self.mixed and name not in self.features]
        self.players: tuple[str, ...] = (*self.features, *own, *([GOA] if channels.goa else []))

    @cached_property
    def values(self) -> dict[str, FloatArray]:
        """Term -> scores [coalition, background]; coalition number sum of 2**player that are the protein's own."""
        level1 = self._level1()
        found: dict[str, FloatArray] = {}
        for aspect, path in self.paths.items():
            scores = self._stacked(aspect, path, level1)
            found.update({term: scores[..., column] for column, term in enumerate(path.terms)})
        return found

    def coalition(self, members: Sequence[str]) -> int:
        """The number of a coalition."""
        return sum(1 << self.players.index(name) for name in members)

    def _members(self, name: str) -> Sequence[Level1Model]:
        members = members_of(self.bundle, name, self.known.place)
        fold = self.known.place.fold
        if fold is None or not isinstance(members[0], Knn):
            return members
        return [without_fold(members[0], fold, self.run.folds)]

    def _level1(self) -> dict[str, npt.NDArray[np.float32]]:
        """Model -> logits [own coalition or not .., background, level-1 term]: by feature coalition, else (theirs, own)."""
        found: dict[str, npt.NDArray[np.float32]] = {}
        mixed = mixture(self.features, self.known.features, [b.features for b in self.background])
        shape = (1 << len(self.features), len(self.background), -1)
        rows = np.arange(len(mixed))
        for name, members in self.members.items():
            if name in self.mixed:
                each = [np.clip(m.logits(mixed, rows), -LOGIT_LIMIT, LOGIT_LIMIT) for m in members]
                found[name] = np.mean(each, axis=0, dtype=np.float32).reshape(shape)
            else:
                theirs = np.concatenate([np.asarray(b.level1[name], np.float32) for b in self.background])
                own = np.broadcast_to(np.asarray(self.known.level1[name], np.float32), theirs.shape)
                found[name] = np.stack([theirs, own])
        return found

    def _stacked(self, aspect: str, path: WholePath, level1: Mapping[str, npt.NDArray[np.float32]]) -> FloatArray:
        """Scores [coalition, background, asked terms]."""
        rows = (1 << len(self.players)) * len(self.background)
        found = []
        with torch.inference_mode(), float32_only(self.bundle.stacker.device):
            for block in self._blocks(rows):
                part, goa = self._rows(block, level1)
                missing = None if path.fold is None else self.run.missing_of_fold(path.fold)
                channels = self.bundle.stacker.channel_inputs(aspect, part, goa, missing=missing)
                found.append(self.bundle.stacker.forward(aspect, channels, fold=path.fold)[:, path.columns].cpu())
        scores: FloatArray = torch.cat(found).double().numpy()
        return scores.reshape(1 << len(self.players), len(self.background), -1)

    @staticmethod
    def _blocks(rows: int) -> Iterator[npt.NDArray[np.int64]]:
        for start in range(0, rows, STACKED_ROWS):
            yield np.arange(start, min(start + STACKED_ROWS, rows))

    def _rows(
        self, block: npt.NDArray[np.int64], level1: Mapping[str, npt.NDArray[np.float32]]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, sparse.csr_array]]:
        """Level-1 logits and annotations of some rows of [coalition x background]."""
        coalition, other = np.divmod(block, len(self.background))
        of_features = coalition & ((1 << len(self.features)) - 1)
        part = {}
        for name, logits in level1.items():
            own = of_features if name in self.mixed else coalition >> self.players.index(name) & 1
            part[name] = logits[own, other]
        goa: dict[str, sparse.csr_array] = {}
        if GOA in self.players:
            taken = (coalition >> self.players.index(GOA) & 1).astype(bool)
            sources = [self.known if mine else self.background[b] for mine, b in zip(taken, other, strict=True)]
            width = len(self.bundle.stacker.layout.terms)
            nothing = sparse.csr_array((1, width), dtype=np.float32)
            for kind in self.bundle.stacker.layout.channels.goa:
                goa[kind] = sparse.csr_array(sparse.vstack([s.goa.get(kind, nothing) for s in sources], format="csr"))
        return part, goa


def mixture(players: Sequence[str], own: Features, background: Sequence[Features]) -> Features:
    """Proteins made of parts: [coalition of players x background] rows, the coalition's parts from `own`.

    Args:
        players: modalities, and `taxon`; what is none of them stays the background's.
        own: row 0 is the protein.
        background: likewise.
    """
    coalitions, count = 1 << len(players), len(background)
    number = np.repeat(np.arange(coalitions), count)
    taken = {name: (number >> player & 1).astype(bool) for player, name in enumerate(players)}
    dense: dict[str, npt.NDArray[np.floating]] = {}
    for name, mine in own.dense.items():
        rows = np.tile(np.concatenate([np.asarray(other.dense[name]) for other in background]), (coalitions, 1))
        if name in taken:
            rows[taken[name]] = np.asarray(mine)
        dense[name] = rows
    taxa = np.tile(np.concatenate([other.taxa for other in background]), coalitions)
    if TAXON in taken:
        taxa[taken[TAXON]] = own.taxa[0]
    return Features([own.ids[0]] * len(number), [own.sequences[0]] * len(number), dense, taxa, None)


def without_fold(knn: Knn, fold: int, folds: npt.NDArray[np.int64]) -> Knn:
    """The same vote without one fold's proteins; `folds` is by train row."""
    reference = knn.reference
    keep = folds[reference.rows] != fold
    priors = reference.priors_without_fold(np.array([fold]), folds)[0]
    smaller = Reference(
        reference.rows[keep],
        reference.labels[keep],
        reference.annotated[keep],
        reference.aspects,
        priors,
        reference.taxa[keep],
    )
    return Knn(smaller, knn.embeddings[keep], knn.space, knn.terms, neighbours=knn.count, temperature=knn.temperature)
