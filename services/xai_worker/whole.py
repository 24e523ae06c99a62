"""From everything that is known of a protein to the final logits: residues, words, taxon, annotations and votes.

The path recomputes what depends on its inputs: encoders, MLP, logistic regression, CNN and the stacker.
Votes of other proteins (homology, KNN) enter as the stored scores: no gradient leads through a search.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from services.xai_worker.explainers.base import BoolArray
from services.xai_worker.paths import SEQUENCE_ENCODERS, Bundle, members_of
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
from shared.models.feature_space import TAXON, FeatureSpace
from shared.models.features import Features
from shared.models.logreg import Logreg
from shared.nn.heads import MlpModel
from shared.nn.stacker import float32_only
from shared.nn.transforms import transform_vectors

FINAL = "final"
RESIDUES, WORDS, GOA, VOTES = "residues:", "words", "goa", "votes:"
STACKED_ROWS = 64  # proteins that go through the stacker together
Blocks = dict[str, Tensor]


@dataclass(frozen=True)
class Known:
    """What a path through the whole model needs to know of one protein.

    Attributes:
        place: where it stands.
        features: row 0.
        level1: stored level-1 logits [1, level-1 term] by model.
        goa: kind -> [1, stacker term].
    """

    place: Place
    features: Features
    level1: Mapping[str, np.ndarray]
    goa: Mapping[str, sparse.csr_array]


def known_of(bundle: Bundle, run: StoredRun, place: Place, goa: Mapping[str, sparse.csr_array]) -> Known:
    """Read it from the run."""
    models = bundle.stacker.layout.channels.models
    return Known(place, run.features(place), run.level1_logits(place, models), goa)


class WholePath:
    """Inputs of one protein -> the stacker's logits of the asked terms of one aspect.

    As a residue path its inputs are every sequence reader's residue embeddings side by side.

    Args:
        bundle: the model.
        run: names the level-1 columns and what each fold fitted.
        known: the protein.
        aspect: the asked terms' aspect.
        terms: the asked terms.
        cache: of the protein's masked scores.
    """

    model = FINAL

    def __init__(
        self,
        bundle: Bundle,
        run: StoredRun,
        known: Known,
        *,
        aspect: str,
        terms: Sequence[str],
        cache: MaskedCache | None = None,
    ) -> None:
        self.bundle, self.run, self.known, self.aspect, self.terms = bundle, run, known, aspect, tuple(terms)
        self.sequence = known.features.sequences[0]
        self.covered: BoolArray = np.ones(len(self.sequence), bool)
        self.cache = cache or MaskedCache()
        self.fold = known.place.fold
        layout = bundle.stacker.layout
        of_aspect = layout.of_aspect(aspect)
        names = [layout.terms[i] for i in of_aspect]
        self.columns = [names.index(term) for term in terms]
        self.cross = bundle.stacker.cross.get(aspect)
        # This aspect's terms, then those of the others that the stacker reads.
        self.level1_columns = [layout.columns[i] for i in of_aspect]
        if self.cross is not None:
            self.level1_columns += self.cross.columns.tolist()
        self._members: dict[str, Sequence[Level1Model]] = {
            name: members_of(bundle, name, known.place) for name in layout.channels.models
        }
        self.readers = {n: m for n, m in self._members.items() if isinstance(m[0], SequenceModel)}
        self.heads = {n: m for n, m in self._members.items() if isinstance(m[0], MlpModel | Logreg)}
        self.votes = [n for n in layout.channels.models if n not in self.readers and n not in self.heads]
        for by_aspect in bundle.stacker.networks.values():
            by_aspect[aspect].requires_grad_(False)
        for members in self.heads.values():
            for member in members:
                if isinstance(member, MlpModel):
                    member.network.requires_grad_(False)
        self.dims = {m: d for members in self.heads.values() for m, d in _space(members[0]).dims.items()}
        # Modalities whose vector an encoder makes. Looked up here: encoders load on first use, and must not do so
        # in inference mode, where their weights would be lost to gradients.
        self.encoders = [m for m in SEQUENCE_ENCODERS if m in self.dims and m in bundle.encoders]
        missing = None if self.fold is None else run.missing_of_fold(self.fold)
        own = bundle.stacker.channel_inputs(aspect, known.level1, known.goa, missing=missing)
        self._channels = own.cpu()  # [1, term of the aspect, channel]

    @property
    def reads_residues(self) -> bool:
        """Whether any part of the model reads the sequence itself; a model of votes alone does not."""
        return bool(self.readers or self.encoders)

    def with_sequence(self, sequence: str, cache: MaskedCache | None = None) -> WholePath:
        """The same function of another sequence; everything else that is known of the protein stays."""
        features = replace(self.known.features, sequences=[sequence])
        known = replace(self.known, features=features)
        return WholePath(self.bundle, self.run, known, aspect=self.aspect, terms=self.terms, cache=cache)

    def blocks(self) -> Blocks:
        """X by source, each [1, ...]: `residues:<reader>`, `words`, `taxon`, `goa`, `votes:<model>`."""
        found = self._residue_blocks(self.sequence)
        if self.dims.get("text"):
            found[WORDS] = self._words()
        if self._knows_taxa:
            found[TAXON] = torch.ones(1, 1)
        channels = self.bundle.stacker.layout.channels
        for name in self.votes:
            stored = self.known.level1[name][:1][:, self.level1_columns].astype(np.float16)
            found[VOTES + name] = torch.from_numpy(stored.astype(np.float32))
        if channels.goa:
            found[GOA] = self._channels[..., channels.goa_part]
        return found

    def _words(self) -> Tensor:
        """The text's vector, brought to unit length here where the model does so: see `InputBlock.forward`."""
        words = torch.from_numpy(np.asarray(self.known.features.dense["text"][:1], np.float32))
        spaces = [_space(member) for members in self.heads.values() for member in members]
        v2 = any(space.transform.version == "v2" for space in spaces)
        return transform_vectors(words, "v2") if v2 else words

    def baselines(self) -> Blocks:
        """x': the mean amino acid, no word, an unknown taxon, no annotation, votes that say the prior."""
        layout, priors = self.bundle.stacker.layout, self.bundle.stacker.prior_logits().cpu()
        place = {column: number for number, column in enumerate(layout.columns)}
        neutral = priors[[place[column] for column in self.level1_columns]][None]
        found: Blocks = {}
        for name, block in self.blocks().items():
            kind, _, which = name.partition(":")
            if kind + ":" == RESIDUES:
                found[name] = self._mean_residues(which)
            elif kind + ":" == VOTES:
                found[name] = neutral.clone()
            else:
                found[name] = torch.zeros_like(block)
        return found

    def forward(self, blocks: Blocks, *, as_stored: bool = False) -> Tensor:
        """F: blocks [B, ...] -> [B, asked terms]; differentiable. `as_stored` rounds level-1 logits as stage 7 does."""
        vectors = {}
        for m in self.encoders:  # every block is on the CPU; encoders and the stacker may compute elsewhere
            encoder = self.bundle.encoders[m]
            vectors[m] = encoder.forward_embedded(blocks[RESIDUES + m].to(encoder.device)).cpu()
        read = {name: list(member_logits(_readers(m), blocks[RESIDUES + name])) for name, m in self.readers.items()}
        return self._stack(blocks, vectors, read, as_stored=as_stored)

    def inputs(self) -> Tensor:
        """[1, residues, every reader's width together]."""
        return self.embed(self.sequence)

    def embed(self, sequence: str) -> Tensor:
        """The inputs of another sequence."""
        return torch.cat(list(self._residue_blocks(sequence).values()), dim=-1)

    def baseline(self) -> Tensor:
        """The mean amino acid of every reader at every residue."""
        names = [name.removeprefix(RESIDUES) for name in self._residue_blocks(self.sequence)]
        return torch.cat([self._mean_residues(name) for name in names], dim=-1)

    def logits(self, inputs: Tensor) -> Tensor:
        """F of residues alone, the other blocks held fixed: [B, residues, widths] -> [B, asked terms]."""
        blocks, residues = self._fixed(len(inputs)), self._residue_blocks(self.sequence)
        widths = [block.shape[-1] for block in residues.values()]
        blocks |= dict(zip(residues, torch.split(inputs, widths, dim=-1), strict=True))
        return self.forward(blocks)

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """[groups, asked terms], mask tokens in every reader; the votes are held fixed."""
        with torch.inference_mode():
            vectors = {
                m: masked_vectors(m, self.bundle.encoders[m], self.sequence, groups, self.cache) for m in self.encoders
            }
            read = {
                name: masked_members(name, _readers(m), self.sequence, groups, self.cache)
                for name, m in self.readers.items()
            }
            found = []
            for start in range(0, len(groups), STACKED_ROWS):
                rows = slice(start, start + STACKED_ROWS)
                own = {m: vector[rows] for m, vector in vectors.items()}
                logits = {name: list(part[rows].unbind(1)) for name, part in read.items()}
                found.append(self._stack(self._fixed(len(groups[rows])), own, logits))
            return torch.cat(found)

    def stored_scale(self) -> Tensor:
        """[asked terms], rounded where the run rounds."""
        with torch.inference_mode():
            return self.forward(self.blocks(), as_stored=True)[0]

    def _residue_blocks(self, sequence: str) -> Blocks:
        found = {RESIDUES + name: embed_members(_readers(m), sequence) for name, m in self.readers.items()}
        for m in self.encoders:
            found[RESIDUES + m] = self.bundle.encoders[m].embed_tokens(sequence).detach()[None].cpu()
        return found

    def _mean_residues(self, name: str) -> Tensor:
        if name in self.readers:
            return mean_members(_readers(self.readers[name]), len(self.sequence))
        return self.bundle.encoders[name].mean_residue().detach().cpu().expand(1, len(self.sequence), -1).clone()

    def _fixed(self, count: int) -> Blocks:
        return {n: b.expand(count, *b.shape[1:]) for n, b in self.blocks().items() if not n.startswith(RESIDUES)}

    @property
    def _knows_taxa(self) -> bool:
        return any(TAXON in _space(member).blocks for members in self.heads.values() for member in members)

    def _stack(
        self,
        blocks: Blocks,
        vectors: Mapping[str, Tensor],
        read: Mapping[str, list[Tensor]],
        *,
        as_stored: bool = False,
    ) -> Tensor:
        """Level-1 logits by model and member, then the stacker."""
        models = self.bundle.stacker.layout.channels.models
        planes = []
        for name in models:
            if name in self.votes:
                planes.append(blocks[VOTES + name])
                continue
            each = read[name] if name in read else list(self._head_logits(name, blocks, vectors))
            own = [_limited(logits[:, self.level1_columns], as_stored=as_stored) for logits in each]
            planes.append(_limited(torch.stack(own).mean(0), as_stored=as_stored))
        rows, own_terms = len(planes[0]), self._channels.shape[1]
        missing = self._channels[..., len(models)].expand(rows, -1)
        channels = torch.stack([*(plane[:, :own_terms] for plane in planes), missing], dim=-1)
        if GOA in blocks:
            channels = torch.cat([channels, blocks[GOA].expand(rows, -1, -1)], dim=-1)
        if self.cross is not None:
            others = torch.stack([plane[:, own_terms:].expand(rows, -1) for plane in planes]).mean(0)
            cross = (others - torch.from_numpy(self.cross.mean)) @ torch.from_numpy(self.cross.directions)
            channels = torch.cat([channels, cross[:, None, :].expand(-1, own_terms, -1)], dim=-1)
        stacker = self.bundle.stacker
        with float32_only(stacker.device):
            scores = stacker.forward(self.aspect, channels.to(stacker.device), fold=self.fold)
        return scores[:, self.columns].cpu()

    def _head_logits(self, name: str, blocks: Blocks, vectors: Mapping[str, Tensor]) -> Iterator[Tensor]:
        for member in self.heads[name]:
            raw = dict(self._raw(_space(member), blocks, vectors))
            unit = ("text",) if WORDS in blocks else ()
            if isinstance(member, MlpModel):
                yield member.network(raw, unit)
            else:
                yield linear_logits(cast(Logreg, member), raw, unit)

    def _raw(self, space: FeatureSpace, blocks: Blocks, vectors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Untransformed input blocks of one member, [B, dimension] by name."""
        row = np.zeros(1, np.int64)
        for modality in space.dims:
            if modality == "text" and WORDS in blocks:
                yield modality, blocks[WORDS]
            elif modality in vectors:
                yield modality, vectors[modality]
            else:  # made by no encoder of the bundle: what is stored
                yield modality, torch.from_numpy(space.raw(self.known.features, row, modality))
        if TAXON in space.blocks:
            own = torch.from_numpy(space.one_hot_taxa(self.known.features, row))
            unknown = torch.zeros_like(own)
            unknown[:, -1] = 1.0
            yield TAXON, unknown + blocks[TAXON] * (own - unknown)


def linear_logits(member: Logreg, raw: Mapping[str, Tensor], unit: Collection[str] = ()) -> Tensor:
    """A logistic regression in torch: raw blocks [B, dimension] by name (`unit` ones of v2's length) -> logits [B, term]."""
    transform = member.space.transform
    parts = []
    for name in member.space.blocks:
        values = raw[name]
        if name != TAXON:
            mean, std = transform.mean.get(name), transform.std.get(name)
            values = transform_vectors(
                values,
                "v1" if name in unit else transform.version,
                None if mean is None else torch.from_numpy(mean),
                None if std is None else torch.from_numpy(std),
            )
        parts.append(values)
    rows = max(len(part) for part in parts)
    joined = torch.cat([part.expand(rows, -1) for part in parts], dim=1)
    logits: Tensor = joined @ torch.from_numpy(member.weights) + torch.from_numpy(member.bias)
    return logits if member.chain is None else member.chain(logits)


def _limited(logits: Tensor, *, as_stored: bool) -> Tensor:
    limited = logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    return limited.half().float() if as_stored else limited


def _readers(members: Sequence[Level1Model]) -> Sequence[SequenceModel]:
    return [member for member in members if isinstance(member, SequenceModel)]


def _space(member: Level1Model) -> FeatureSpace:
    space: FeatureSpace = member.space  # type: ignore[attr-defined]
    return space
