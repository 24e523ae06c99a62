"""The catalogue: every artefact a stage may write, by its path in the run folder.

The paths are the contract with notebooks and with the worker; a stage may add to them, never rename
one. `{name}` stands for one path-safe word, so that one entry serves every level-1 model.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import feather, parquet

from shared.digests import canonical_json
from shared.errors import DataError

COPIED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Codec:
    """How an artefact is written to a path and read back; `rows` counts its records."""

    write: Callable[[Path, Any], None]
    read: Callable[[Path], Any]
    rows: Callable[[Path], int | None]


@dataclass(frozen=True, slots=True)
class Artefact:
    """One catalogue line. `axes` names what the rows and columns are."""

    pattern: str
    codec: Codec
    axes: str


def _write_feather(path: Path, frame: pd.DataFrame) -> None:
    feather.write_feather(pa.Table.from_pandas(frame, preserve_index=False), str(path), compression="lz4")


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    parquet.write_table(table, path, compression="zstd")


def _write_labels(path: Path, frames: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
    blocks = iter([frames] if isinstance(frames, pd.DataFrame) else frames)
    first = pa.Table.from_pandas(next(blocks), preserve_index=False)
    with parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for frame in blocks:
            writer.write_table(pa.Table.from_pandas(frame, schema=first.schema, preserve_index=False))


def _read_labels(path: Path) -> pd.DataFrame:
    # A protein has a hundred labels and more: as categories a row takes 8 bytes, as text 45.
    frame: pd.DataFrame = parquet.read_table(path, read_dictionary=["id", "term", "aspect"]).to_pandas()
    return frame


def _write_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    # A map of no bytes is refused by the operating system, so an absent modality is read whole.
    array: np.ndarray[Any, Any] = (
        np.load(path, allow_pickle=False)
        if path.stat().st_size <= 256
        else np.load(path, mmap_mode="r", allow_pickle=False)
    )
    return array


def _npz_rows(_path: Path) -> None:
    return None


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in an npz file; written into another one it is copied, and never held in memory."""

    archive: Path
    name: str


def stored_arrays(archive: Path) -> dict[str, StoredArray]:
    """Every array of an npz file by its name, unread."""
    with zipfile.ZipFile(archive) as packed:
        names = [name.removesuffix(".npy") for name in packed.namelist()]
    return {name: StoredArray(archive, name) for name in names}


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray[Any, Any] | StoredArray]) -> None:
    # As np.savez does: members are stamped 1980-01-01, so that equal arrays give equal bytes.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for name in sorted(arrays):
            array = arrays[name]
            with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, StoredArray):
                    with zipfile.ZipFile(array.archive) as other, other.open(f"{array.name}.npy") as source:
                        shutil.copyfileobj(source, member, COPIED_AT_ONCE)
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _write_tsv_gz(path: Path, frame: pd.DataFrame) -> None:
    with (
        path.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as zipped,
        io.TextIOWrapper(zipped, encoding="utf-8", newline="") as text,
    ):
        frame.to_csv(text, sep="\t", index=False, lineterminator="\n")


def _write_tsv(path: Path, frame: pd.DataFrame) -> None:
    # Never quoted, as on reading: a tab or a line end inside a field is the caller's mistake and fails.
    frame.to_csv(path, sep="\t", index=False, lineterminator="\n", quoting=csv.QUOTE_NONE)


def _read_tsv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)


def _count_lines(path: Path) -> int:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 - closed below
    with opened as file:
        return max(0, sum(1 for _ in file) - 1)


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(canonical_json(value) + b"\n")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from error


def _no_read(path: Path) -> Path:
    return path


def _no_write(path: Path, value: Any) -> None:
    path.write_bytes(value)


FEATHER = Codec(
    _write_feather,
    lambda path: feather.read_feather(path),
    lambda path: int(feather.read_table(path, columns=[], memory_map=True).num_rows),
)
PARQUET = Codec(
    _write_parquet, lambda path: pd.read_parquet(path), lambda path: int(parquet.read_metadata(path).num_rows)
)
LABELS = Codec(_write_labels, _read_labels, PARQUET.rows)  # columns id, term, aspect as categories; or frames of them
NPY = Codec(_write_npy, _read_npy, lambda path: int(_read_npy(path).shape[0]))
NPZ = Codec(_write_npz, _read_npz, _npz_rows)
TSV = Codec(_write_tsv, _read_tsv, _count_lines)
TSV_GZ = Codec(
    _write_tsv_gz,
    lambda path: pd.read_csv(path, sep="\t", dtype={"EntryID": str, "term": str, "channel": str}),
    _count_lines,
)
JSON = Codec(_write_json, _read_json, _npz_rows)
RAW = Codec(_no_write, _no_read, _npz_rows)  # the stage writes the path itself; a reader gets the path


CATALOGUE: tuple[Artefact, ...] = (
    Artefact("parsed/train_seq.feather", FEATHER, "train protein; id, sequence, row order of every train array"),
    Artefact("parsed/test_seq.feather", FEATHER, "test protein; id, sequence, row order of every test array"),
    Artefact("parsed/train_terms.parquet", LABELS, "train protein x term, propagated; id, term, aspect, stated"),
    Artefact("parsed/train_taxa.feather", FEATHER, "train protein; id, taxon_id"),
    Artefact("parsed/test_taxa.feather", FEATHER, "test protein; id, taxon_id"),
    Artefact("parsed/term_priors.parquet", PARQUET, "term; term, aspect, count, prior, conditional_prior, ia"),
    Artefact("parsed/ontology.json", JSON, "the GO terms and edges in use, version, obsolete and alternative ids"),
    Artefact("parsed/splits.feather", FEATHER, "train protein; id, role (fit|val), fold 0..4 (-1 for val), cluster"),
    Artefact("parsed/splits.json", JSON, "how the split was made, per-fold id hashes, near pairs across folds"),
    Artefact("parsed/dataset_manifest.json", JSON, "name, version, files with sha256, rows, split"),
    Artefact(
        "parsed/homology_train.feather", FEATHER, "hit; query row (train), target row (train), bits, fident, qcov, tcov"
    ),
    Artefact(
        "parsed/homology_test.feather", FEATHER, "hit; query row (test), target row (train), bits, fident, qcov, tcov"
    ),
    Artefact(
        "parsed/test_truth.parquet",
        LABELS,
        "test protein x term, propagated; empty without test_terms; read by the evaluation only",
    ),
    Artefact(
        "parsed/known_terms.parquet", LABELS, "test protein x term known at t0, propagated; empty without known_terms"
    ),
    Artefact("external/entryid_text.tsv", TSV, "protein; EntryID, text"),
    Artefact("external/text_manifest.json", JSON, "source, date, rule that dropped label lines, counts"),
    Artefact(
        "external/prop_train_no_kaggle.tsv.gz", TSV_GZ, "train protein x term x channel; EntryID, term, channel, score"
    ),
    Artefact(
        "external/prop_test_no_kaggle.tsv.gz", TSV_GZ, "test protein x term x channel; EntryID, term, channel, score"
    ),
    Artefact("external/goa_manifest.json", JSON, "GAF version, evidence codes kept and dropped, counts"),
    Artefact(
        "features/text_vectorizer.joblib", RAW, "scikit-learn TfidfVectorizer, for notebooks; gowhy never loads it"
    ),
    Artefact("features/text_vectorizer.json", JSON, "vocabulary, idf and options"),
    Artefact("features/train_embeds_text.npy", NPY, "[train protein, word]"),
    Artefact("features/test_embeds_text.npy", NPY, "[test protein, word]"),
    Artefact("features/train_embeds_t5.npy", NPY, "[train protein, dimension]"),
    Artefact("features/test_embeds_t5.npy", NPY, "[test protein, dimension]"),
    Artefact("features/train_embeds_esm2.npy", NPY, "[train protein, dimension]"),
    Artefact("features/test_embeds_esm2.npy", NPY, "[test protein, dimension]"),
    Artefact("features/encoder_{name}.json", JSON, "the encoder that made an embedding: arch, dim, weights, options"),
    Artefact("features/level1_terms.json", JSON, "column order of every level-1 matrix, and each fold's own terms"),
    Artefact(
        "features/oof_{name}.npy",
        NPY,
        "[train protein, level-1 term] logits; out-of-fold, val rows by the mean of the folds",
    ),
    Artefact("features/test_pred_{name}.npy", NPY, "[test protein, level-1 term] logits, mean of the folds"),
    Artefact("models/level1/{name}.pth", RAW, "state dicts of the torch members, one per fold"),
    Artefact("models/level1/{name}.npz", NPZ, "arrays of the members that are not torch, one group per fold"),
    Artefact("models/level1/{name}.json", JSON, "how a level-1 model was fitted: kind, options, per-fold losses"),
    Artefact("features/top_terms_1500.json", JSON, "the stacker's terms, in its column order, with aspects"),
    Artefact("models/stacker.pth", RAW, "state dicts of the stacker, one per fold and aspect"),
    Artefact("models/stacker.json", JSON, "stacker architecture, channels, calibration, validation record"),
    Artefact("model_manifest.json", JSON, "the model bundle: relative paths and checksums"),
    Artefact("model.pth", RAW, "every torch member of the bundle; loaded with weights_only=True"),
    Artefact("model_metadata.json", JSON, "term index, feature specification, scaling, training record"),
    Artefact("model_reference.npz", RAW, "KNN reference: ids, embeddings, labels"),
    Artefact("model_reference.npz.gz", RAW, "the same, compressed"),
    Artefact("model_members.npz", NPZ, "bundle members that are not torch"),
    Artefact("model_ontology.json", JSON, "the GO graph that the bundle propagates over"),
    Artefact("model_reference.fasta", RAW, "sequences that the homology vote searches"),
    Artefact("submission.tsv", RAW, "protein, term, score; no header; CAFA format"),
    Artefact("figures/{name}.png", RAW, "drawn from metrics; precision against recall per aspect"),
    Artefact("metrics.json", JSON, "evaluation on validation and test, per aspect"),
)

_COMPILED = [
    (re.compile("^" + re.escape(a.pattern).replace(r"\{name\}", r"[A-Za-z0-9_]+") + "$"), a) for a in CATALOGUE
]


def artefact(path: str) -> Artefact:
    """Return the catalogue entry of a run-relative path.

    Raises:
        KeyError: the path is in no entry; a stage must add one before it writes.
    """
    for expression, entry in _COMPILED:
        if expression.match(path):
            return entry
    raise KeyError(f"{path} is not in shared.artefacts.CATALOGUE")
