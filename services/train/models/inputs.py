"""Run artefacts -> `Features` and `TrainingData`; stages 7, 8 and 9 read proteins through this file only.

Every table is checked against the row order of `parsed/*_seq.feather` before it is used: a table in
another order would not fail, it would train on other proteins' labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from services.train.models.base import TrainingData
from shared.errors import DataError, IntegrityError
from shared.models.features import MODALITIES, Features, Hits, IntArray
from shared.ontology import ASPECTS, Ontology

Which = Literal["train", "test"]
LABELS_AT_ONCE = 1 << 20


class Reader(Protocol):
    """Reads an artefact by its path in the run folder: `StageContext.read`, for one."""

    def __call__(self, path: str) -> Any:
        """The artefact's value; arrays come memory-mapped."""
        ...


@dataclass(frozen=True, slots=True)
class Splits:
    """Which train rows are for what; all members have one entry per train protein."""

    fit: npt.NDArray[np.bool_]  # False for validation rows
    folds: IntArray  # -1 for validation rows
    clusters: IntArray

    @property
    def fit_rows(self) -> IntArray:
        """Rows that may enter a fit."""
        return np.flatnonzero(self.fit)

    @property
    def validation_rows(self) -> IntArray:
        """Rows that enter no fit."""
        return np.flatnonzero(~self.fit)

    def fold_numbers(self) -> list[int]:
        """The folds in use, ascending."""
        return [int(fold) for fold in np.unique(self.folds[self.fit])]


def feature_artefacts(which: Which) -> tuple[str, ...]:
    """The artefacts that `load_features` reads."""
    embeddings = tuple(f"features/{which}_embeds_{modality}.npy" for modality in MODALITIES)
    return (
        f"parsed/{which}_seq.feather",
        f"parsed/{which}_taxa.feather",
        f"parsed/homology_{which}.feather",
        *embeddings,
    )


TRAINING_ARTEFACTS = (
    "parsed/train_terms.parquet",
    "parsed/term_priors.parquet",
    "parsed/ontology.json",
    "parsed/splits.feather",
)
"""What `load_training_data` reads beside `feature_artefacts("train")`."""


def load_features(read: Reader, which: Which) -> Features:
    """Proteins of the train or the test part; dense modalities stay memory-mapped.

    Raises:
        IntegrityError: a table or an array is not in the row order of `parsed/*_seq.feather`.
    """
    proteins = read(f"parsed/{which}_seq.feather")
    ids = proteins["id"].tolist()
    taxa = read(f"parsed/{which}_taxa.feather")
    _check_rows(taxa["id"], ids, f"parsed/{which}_taxa.feather")
    dense: dict[str, npt.NDArray[np.floating]] = {}
    for modality in MODALITIES:
        path = f"features/{which}_embeds_{modality}.npy"
        array = read(path)
        if array.ndim != 2 or array.shape[0] != len(ids):
            raise IntegrityError(
                f"shape {array.shape} does not fit {len(ids)} {which} proteins",
                where=path,
                remedy="Run its stage again",
            )
        dense[modality] = array
    hits = Hits.from_frame(read(f"parsed/homology_{which}.feather"), len(ids))
    return Features(ids, proteins["sequence"].tolist(), dense, taxa["taxon_id"].to_numpy(np.int64), hits)


def load_splits(read: Reader, ids: Sequence[str]) -> Splits:
    """Roles, folds and clusters of the train proteins.

    Raises:
        IntegrityError: the table has other proteins than `ids`, or another order.
    """
    table = read("parsed/splits.feather")
    _check_rows(table["id"], ids, "parsed/splits.feather")
    fit = (table["role"] == "fit").to_numpy(bool)
    return Splits(fit, np.where(fit, table["fold"].to_numpy(np.int64), -1), table["cluster"].to_numpy(np.int64))


def load_labels(
    table: pd.DataFrame, ids: Sequence[str], terms: Sequence[str], *, where: str = "parsed/train_terms.parquet"
) -> sparse.csr_array:
    """0/1 float32 CSR [len(ids), len(terms)] of a table with columns id and term; other terms are left out.

    Raises:
        DataError: the table names a protein that is not in `ids`.
    """
    rows, columns = _rows_of(table["id"], ids, where), _places(table["term"], terms)
    parts, counts = [], np.zeros(len(ids), np.int64)
    in_order = bool((rows[1:] >= rows[:-1]).all())
    if in_order:  # as stage 1 writes them: what is kept is already where a CSR has it
        for start in range(0, len(rows), LABELS_AT_ONCE):
            part = columns[start : start + LABELS_AT_ONCE]
            known = part >= 0
            parts.append(part[known])
            counts += np.bincount(rows[start : start + LABELS_AT_ONCE][known], minlength=len(ids))
        indices = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        del parts, rows, columns
        pointer = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32 if len(indices) < 2**31 else np.int64)
        labels = sparse.csr_array((np.ones(len(indices), np.float32), indices, pointer), shape=(len(ids), len(terms)))
    else:
        known = columns >= 0
        ones = np.ones(int(known.sum()), np.float32)
        labels = sparse.csr_array((ones, (rows[known], columns[known])), shape=(len(ids), len(terms)))
    labels.sum_duplicates()
    labels.data[:] = 1.0
    return labels


def load_annotated(
    table: pd.DataFrame, ids: Sequence[str], *, where: str = "parsed/train_terms.parquet"
) -> npt.NDArray[np.bool_]:
    """Bool [len(ids), 3]: does the protein have any term of the aspect? Columns id, aspect."""
    aspects = _places(table["aspect"], ASPECTS)
    if len(aspects) and aspects.min() < 0:
        raise DataError(
            f"aspect {table['aspect'].iloc[int(np.argmin(aspects))]!r} is none of {', '.join(ASPECTS)}", where=where
        )
    annotated = np.zeros((len(ids), len(ASPECTS)), np.bool_)
    annotated[_rows_of(table["id"], ids, where), aspects] = True
    return annotated


def load_training_data(read: Reader, terms: Sequence[str] | None = None) -> TrainingData:
    """Everything a fitter sees of the train proteins.

    Args:
        read: reads `feature_artefacts("train")` and `TRAINING_ARTEFACTS`.
        terms: label columns, in order; None takes every term that a train protein has, sorted.

    Raises:
        IntegrityError: rows of one artefact do not match those of another.
        DataError: labels of unknown proteins, or of terms that the ontology does not have.
    """
    features = load_features(read, "train")
    splits = load_splits(read, features.ids)
    table = read("parsed/train_terms.parquet")
    ontology = Ontology.from_json(read("parsed/ontology.json"))
    columns = tuple(sorted(table["term"].unique())) if terms is None else tuple(terms)
    unknown = [term for term in columns if term not in ontology.index]
    if unknown:
        raise DataError(
            f"{len(unknown)} terms are not in the ontology, for example {unknown[0]}",
            where="parsed/train_terms.parquet",
        )
    priors = read("parsed/term_priors.parquet").set_index("term")["ia"]
    return TrainingData(
        features=features,
        terms=columns,
        aspects=np.asarray([ontology.aspects[ontology.index[term]] for term in columns], np.int8),
        labels=load_labels(table, features.ids, columns),
        annotated=load_annotated(table, features.ids),
        folds=splits.folds,
        clusters=splits.clusters,
        ontology=ontology,
        information=priors.reindex(list(columns)).fillna(0.0).to_numpy(np.float32),
    )


def _places(column: pd.Series[str], names: Sequence[str]) -> npt.NDArray[np.int32]:
    """Where each value is among the names, -1 where it is not; categories are looked up once each."""
    codes, values = (
        (column.cat.codes.to_numpy(), column.cat.categories)
        if isinstance(column.dtype, pd.CategoricalDtype)
        else pd.factorize(column)
    )
    found = pd.Index(names).get_indexer(pd.Index(values)).astype(np.int32)
    return np.append(found, np.int32(-1))[codes]  # code -1 is no value


def _rows_of(column: pd.Series[str], ids: Sequence[str], where: str) -> npt.NDArray[np.int32]:
    rows = _places(column, ids)
    if len(rows) and rows.min() < 0:
        missing = column.iloc[int(np.argmin(rows))]
        raise DataError(
            f"protein {missing} has labels and no sequence", where=where, remedy="Run stage_01_parsed again"
        )
    return rows


def _check_rows(column: pd.Series[str], ids: Sequence[str], where: str) -> None:
    found = column.tolist()
    if found == list(ids):
        return
    first = next((row for row, (a, b) in enumerate(zip(found, ids, strict=False)) if a != b), min(len(found), len(ids)))
    raise IntegrityError(
        f"row {first} is not the protein of the same row of the sequence table",
        where=where,
        remedy="Run stage_01_parsed again",
    )
