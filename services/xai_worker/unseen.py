"""Proteins that a run has never seen, as if they stood in its test part.

Their features and scores are computed once by the same code that `predict` runs (`TrainedModel`) and kept beside
the batch's finished proteins. There is no stored score to hold an explanation to: parity then compares the explained
path with this computation, and the provenance says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from services.xai_worker.stored import FloatMap, Part, Place, StoredRun
from shared.atomic import atomic_path
from shared.errors import IntegrityError
from shared.fasta import FastaRecord
from shared.models.features import MODALITIES, Features, Hits
from shared.models.trained import Proteins, TrainedModel

BLOCK_PROTEINS = 256
_HIT_FIELDS = ("indptr", "target", "bits", "fident", "qcov", "tcov")
GCN = "gcn"


@dataclass(frozen=True, slots=True)
class Computed:
    """What the run's own stages would have stored of the proteins; arrays by name, rows in the order of the file."""

    arrays: Mapping[str, npt.NDArray[Any]]

    def dense(self, modality: str) -> FloatMap:
        """[protein, dimension], float16."""
        return self.arrays[f"dense/{modality}"]

    def logits(self, model: str) -> FloatMap:
        """[protein, term], float16; `gcn` is the stacker."""
        return self.arrays[f"logits/{model}"]

    @property
    def hits(self) -> Hits:
        """Homology hits among the run's train proteins."""
        return Hits(*(self.arrays[f"hits/{name}"] for name in _HIT_FIELDS))

    def save(self, path: Path) -> None:
        """Write atomically, without pickle."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict(self.arrays))

    @classmethod
    def load(cls, path: Path) -> Computed:
        """Read back what `save` wrote.

        Raises:
            IntegrityError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls({name: file[name] for name in file.files})
        except (ValueError, OSError, KeyError) as error:
            raise IntegrityError(
                f"the proteins' computed scores cannot be read: {error}", where=str(path), remedy="Remove the file"
            ) from error


def compute(model: TrainedModel, records: Sequence[FastaRecord], threads: int = 1) -> Computed:
    """Features, level-1 and stacker logits, block by block; nothing is known of the proteins but sequence and taxon."""
    blocks: list[dict[str, npt.NDArray[Any]]] = []
    for part in _blocks(records):
        proteins = Proteins([r.id for r in part], [r.sequence for r in part], None, [r.taxon or 0 for r in part])
        features = model.features(proteins, threads)
        block = {f"dense/{name}": np.asarray(array) for name, array in features.dense.items()}
        block |= {f"logits/{name}": array for name, array in model.level1_logits(features).items()}
        block[f"logits/{GCN}"] = model.stacker_logits(features)
        block["taxa"] = np.asarray(features.taxa)
        hits = features.hits
        if hits is not None:
            block |= {f"hits/{name}": getattr(hits, name) for name in _HIT_FIELDS}
        blocks.append(block)
    return Computed(_joined(blocks))


class UnseenRun(StoredRun):
    """A run whose test part is replaced by proteins from elsewhere; ontology, terms and train proteins are the run's.

    Where an id is also one of the run's, it names the given sequence.
    """

    def __init__(self, folder: Path, records: Sequence[FastaRecord], computed: Computed) -> None:
        super().__init__(folder)
        self.records, self.computed = list(records), computed

    @cached_property
    def proteins(self) -> dict[Part, pd.DataFrame]:
        """The given proteins as test part, the run's train part."""
        own = pd.DataFrame({"id": [r.id for r in self.records], "sequence": [r.sequence for r in self.records]})
        return {"test": own, "train": self.read("parsed/train_seq.feather")}

    def scores(self, part: Part, model: str) -> FloatMap:
        """Computed logits of the given proteins; stored ones of the train part."""
        return self.computed.logits(model) if part == "test" else super().scores(part, model)

    def features(self, place: Place, *, hits: bool = False) -> Features:
        """One of the given proteins as row 0."""
        if place.part != "test":
            return super().features(place)
        rows = slice(place.row, place.row + 1)
        record = self.records[place.row]
        dense = {name: self.computed.dense(name)[rows] for name in MODALITIES if self._has(f"dense/{name}")}
        found = self._hits_of(place.row) if hits else None
        return Features([record.id], [record.sequence], dense, self.computed.arrays["taxa"][rows], found)

    def goa(self, part: Part, proteins: Sequence[str]) -> Mapping[str, sparse.csr_array]:
        """Nothing is annotated of a protein that nobody has seen."""
        return {} if part == "test" else super().goa(part, proteins)

    @cached_property
    def also_trained_on(self) -> list[str]:
        """Given proteins whose exact sequence is among the run's train proteins: their scores are not of the unseen."""
        known = set(self.proteins["train"]["sequence"])
        return [record.id for record in self.records if record.sequence in known]

    def _has(self, name: str) -> bool:
        return name in self.computed.arrays

    def _hits_of(self, row: int) -> Hits | None:
        if not self._has("hits/indptr"):
            return None
        every = self.computed.hits
        own = every.of(row)
        counts = np.array([0, own.stop - own.start], np.int64)
        return Hits(counts, *(getattr(every, name)[own] for name in _HIT_FIELDS[1:]))


def _blocks(records: Sequence[FastaRecord]) -> Iterator[Sequence[FastaRecord]]:
    for start in range(0, len(records), BLOCK_PROTEINS):
        yield records[start : start + BLOCK_PROTEINS]


def _joined(blocks: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0] if name != "hits/indptr"}
    if "hits/indptr" in blocks[0]:
        counts = np.concatenate([np.diff(block["hits/indptr"]) for block in blocks])
        joined["hits/indptr"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return joined
