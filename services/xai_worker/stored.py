"""What a run has stored: its proteins, its features, and the scores that an explanation must reproduce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from shared.artefacts import artefact
from shared.errors import IntegrityError, MissingInput
from shared.models.channels import goa_matrices
from shared.models.features import MODALITIES, Features, Hits
from shared.ontology import Ontology

Part = Literal["test", "train"]
FloatMap = npt.NDArray[np.floating]
GOA_CHUNK_ROWS = 500_000
BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a protein stands: its part and row, and the fold it was held out in (None: unseen by every fold)."""

    part: Part
    row: int
    fold: int | None


class StoredRun:
    """Reads a complete run folder. Arrays stay memory-mapped; nothing is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> Any:
        """Read an artefact by its codec.

        Raises:
            MissingInput: the run has none.
        """
        file = self.folder / path
        if not file.is_file():
            raise MissingInput(f"the run has no {path}", where=str(self.folder), remedy="Run the pipeline to its end")
        return artefact(path).codec.read(file)

    @cached_property
    def proteins(self) -> dict[Part, pd.DataFrame]:
        """Columns id and sequence, in row order."""
        return {"test": self.read("parsed/test_seq.feather"), "train": self.read("parsed/train_seq.feather")}

    @cached_property
    def places(self) -> dict[str, Place]:
        """Protein -> where it stands; a protein in both parts counts as test."""
        found = {
            protein: Place("train", row, None if self.folds[row] < 0 else int(self.folds[row]))
            for row, protein in enumerate(self.proteins["train"]["id"])
        }
        found.update({protein: Place("test", row, None) for row, protein in enumerate(self.proteins["test"]["id"])})
        return found

    @cached_property
    def folds(self) -> npt.NDArray[np.int64]:
        """[train protein] the fold it was held out in; -1 for validation proteins."""
        splits = self.read("parsed/splits.feather")
        return np.where(splits["role"] == "fit", splits["fold"].to_numpy(np.int64), -1)

    def sequence(self, place: Place) -> str:
        """The protein's residues."""
        return str(self.proteins[place.part]["sequence"].iloc[place.row])

    @cached_property
    def ontology(self) -> Ontology:
        """The run's own ontology."""
        return Ontology.from_json(self.read("parsed/ontology.json"))

    @cached_property
    def level1_terms(self) -> dict[str, int]:
        """Term -> column of every level-1 matrix."""
        return {term: column for column, term in enumerate(self.read("features/level1_terms.json")["terms"])}

    @cached_property
    def stacker_terms(self) -> dict[str, int]:
        """Term -> column of the stacker's scores."""
        document = self.read("features/top_terms_1500.json")
        terms = document["terms"] if isinstance(document, dict) else document
        return {term: column for column, term in enumerate(terms)}

    def missing_of_fold(self, fold: int) -> npt.NDArray[np.float32]:
        """1 for stacker terms that the fold's level-1 models never fitted, else 0; [stacker term]."""
        fitted = np.asarray(self.read("features/level1_terms.json")["fold_terms"][str(fold)], bool)
        columns = [self.level1_terms[term] for term in self.stacker_terms]
        return (~fitted[columns]).astype(np.float32)

    @cached_property
    def priors(self) -> dict[str, float]:
        """Term -> share of annotated train proteins that have it."""
        table = self.read("parsed/term_priors.parquet")
        return dict(zip(table["term"], table["prior"].astype(float), strict=True))

    def scores(self, part: Part, model: str) -> FloatMap:
        """Stored logits [protein, term]: mean of the folds, out-of-fold for train proteins that were fitted on."""
        path = f"features/test_pred_{model}.npy" if part == "test" else f"features/oof_{model}.npy"
        array: FloatMap = self.read(path)
        if array.shape[0] != len(self.proteins[part]):
            raise IntegrityError(f"{array.shape[0]} rows for {len(self.proteins[part])} proteins", where=path)
        return array

    def features(self, place: Place, *, hits: bool = False) -> Features:
        """One protein as the models saw it, as row 0; homology hits on request."""
        rows = slice(place.row, place.row + 1)
        dense = {name: _embeddings(self.folder, place.part, name)[rows] for name in MODALITIES}
        taxa = self.read(f"parsed/{place.part}_taxa.feather")["taxon_id"].to_numpy(np.int64)[rows]
        protein = self.proteins[place.part].iloc[place.row]
        found = None
        if hits:
            table = _hits(self.folder, place.part)
            found = Hits.from_frame(table[table["query"] == place.row].assign(query=0), 1)
        return Features([protein["id"]], [protein["sequence"]], dense, taxa, found)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words of the text modality, in column order."""
        return list(self.read("features/text_vectorizer.json")["vocabulary"])

    def mean_embedding(self, modality: str) -> npt.NDArray[np.float32]:
        """Mean pooled vector [D] over the train proteins."""
        return _mean_embedding(self.folder, modality)

    def level1_logits(self, place: Place, models: Sequence[str]) -> dict[str, FloatMap]:
        """Stored level-1 logits of one protein, [1, level-1 term] by model."""
        return {name: self.scores(place.part, name)[place.row : place.row + 1] for name in models}

    def goa(self, part: Part, proteins: Sequence[str]) -> Mapping[str, sparse.csr_array]:
        """Kind -> known annotations [protein, stacker term]; one pass over the table serves all proteins."""
        path = f"external/prop_{part}_no_kaggle.tsv.gz"
        if not (self.folder / path).is_file():
            raise MissingInput(f"the run has no {path}", where=str(self.folder), remedy="Run the pipeline to its end")
        chunks = pd.read_csv(
            self.folder / path,
            sep="\t",
            dtype={"EntryID": str, "term": str, "channel": str, "score": np.float32},
            chunksize=GOA_CHUNK_ROWS,
        )
        with chunks:
            return goa_matrices(chunks, list(proteins), list(self.stacker_terms))


@cache
def _embeddings(folder: Path, part: Part, modality: str) -> FloatMap:
    array: FloatMap = StoredRun(folder).read(f"features/{part}_embeds_{modality}.npy")
    return array


@cache
def _mean_embedding(folder: Path, modality: str) -> npt.NDArray[np.float32]:
    array = _embeddings(folder, "train", modality)
    total = np.zeros(array.shape[1])
    for start in range(0, len(array), BLOCK_ROWS):
        total += np.asarray(array[start : start + BLOCK_ROWS], np.float64).sum(axis=0)
    return (total / max(1, len(array))).astype(np.float32)


@cache
def _hits(folder: Path, part: Part) -> pd.DataFrame:
    table: pd.DataFrame = StoredRun(folder).read(f"parsed/homology_{part}.feather")
    return table
