"""The verb predict: a FASTA in, a score table out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from services.train.submission import submitted, write_submission
from shared.atomic import atomic_path, write_json
from shared.config import SubmissionConfig
from shared.errors import DataError, UsageError
from shared.fasta import read_fasta
from shared.models.trained import Proteins, TrainedModel, check_reference
from shared.nn.device import resolve_device
from shared.nn.seeding import make_deterministic


def predict_file(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score every protein of a FASTA and write `protein, term, score` beside a record of how.

    Raises:
        GowhyError: see `TrainedModel.load` and `TrainedModel.predict`.
    """
    make_deterministic(arguments.threads)
    torch.set_num_threads(arguments.threads)
    if arguments.reference is not None:
        if arguments.knn_correction == "off":
            raise UsageError("--reference is only read with --knn-correction low_conf_only or all")
        check_reference(arguments.reference, arguments.reference_sha256)
    proteins = read_proteins(arguments.fasta, read_table(arguments.text), read_table(arguments.taxonomy))
    model = TrainedModel.load(arguments.model, str(resolve_device(arguments.device)))
    if model.sha256 is None:
        print("warning: the bundle has no manifest; nothing vouches for its files", file=sys.stderr)
    scores = model.predict(proteins, arguments.knn_correction, arguments.reference, arguments.threads)
    rows = write_predictions(arguments.out, proteins, scores, model)
    write_json(
        arguments.out.with_name(arguments.out.name + ".run.json"), run_record(arguments, model, len(proteins.ids), rows)
    )
    return {"out": str(arguments.out), "proteins": len(proteins.ids), "rows": rows, "model": model.sha256}


def write_predictions(path: Path, proteins: Proteins, scores: sparse.csr_array, model: TrainedModel) -> int:
    """Write scores in the submission's format; returns the number of rows."""
    options = SubmissionConfig.model_validate(model.metadata["submission"])
    with atomic_path(path) as temporary:
        return write_submission(
            temporary, [(proteins.ids, submitted(scores, options))], model.ontology, options.significant_figures
        )


def read_proteins(fasta: Path, texts: Mapping[str, str] | None, taxa: Mapping[str, str] | None) -> Proteins:
    """Proteins of a FASTA with what the two tables say of them.

    Raises:
        DataError: a duplicate id, an empty file, or a taxon that is not a number.
    """
    records = list(read_fasta(fasta))
    first: dict[str, int] = {}
    for record in records:
        if record.id in first:
            raise DataError(
                f"duplicate id {record.id}, first at line {first[record.id]}", where=f"{fasta}:{record.line}"
            )
        first[record.id] = record.line
    try:
        numbers = [int((taxa or {}).get(record.id, record.taxon or 0)) for record in records]
    except ValueError as error:
        raise DataError(f"a taxon id is not a number: {error}", where="--taxonomy") from error
    found = None if texts is None else [texts.get(record.id, "") for record in records]
    return Proteins([r.id for r in records], [r.sequence for r in records], found, numbers)


def read_table(path: Path | None) -> dict[str, str] | None:
    """Two tab-separated columns, id and value; a header named EntryID is skipped.

    Raises:
        DataError: a line without a tab.
    """
    if path is None:
        return None
    table: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        identifier, separator, value = line.partition("\t")
        if not separator:
            raise DataError("expected two columns separated by a tab", where=f"{path}:{number}")
        if identifier != "EntryID":
            table[identifier] = value
    return table


def run_record(arguments: argparse.Namespace, model: TrainedModel, proteins: int, rows: int) -> dict[str, Any]:
    """`<out>.run.json`: model, output, device request and what was asked."""
    return {
        "model_path": str(arguments.model),
        "model_sha256": model.sha256,
        "output_path": str(arguments.out),
        "device_request": arguments.device,
        "metadata": {
            "proteins": proteins,
            "rows": rows,
            "knn_correction": arguments.knn_correction,
            "numpy": np.__version__,
        },
    }
