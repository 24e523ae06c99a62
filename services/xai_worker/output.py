"""The files of one job: a line, table rows and a page per protein while it runs, the index at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from services.xai_worker.documents import Scan
from services.xai_worker.provenance import Provenance
from services.xai_worker.report import IndexRow, render_index, render_report, report_name
from services.xai_worker.result import AnyExplanation, ResidueExplanation, json_line, ranks, round_significant

EXPLANATIONS, ATTRIBUTIONS, INDEX, REPORTS = "explanations.jsonl", "attributions.parquet", "index.html", "reports"
MUTATIONS = "mutations.parquet"
LOCALISATION = "localisation.json"

ATTRIBUTION_COLUMNS = pa.schema(
    [
        ("protein", pa.string()),
        ("term", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("position", pa.int32()),  # 1-based
        ("residue", pa.string()),
        ("value", pa.float64()),  # null where the model never sees the residue
        ("rank", pa.int32()),  # 1 raises the score most
        ("standard_error", pa.float64()),  # null where the method samples nothing
    ]
)
MUTATION_COLUMNS = pa.schema(
    [
        ("protein", pa.string()),
        ("term", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("position", pa.int32()),  # 1-based
        ("residue", pa.string()),
        ("substitution", pa.string()),
        ("value", pa.float64()),  # change of the logit
    ]
)


class JobFiles:
    """Writes explanations protein by protein; memory holds one protein and a line per explanation."""

    def __init__(self, folder: Path, provenance: Provenance, lines: BinaryIO, table: parquet.ParquetWriter) -> None:
        self.folder, self.provenance = folder, provenance
        self._lines, self._table = lines, table
        self._mutations: parquet.ParquetWriter | None = None
        self.rows: list[IndexRow] = []

    def add_protein(self, explanations: Sequence[AnyExplanation], sequence: str) -> None:
        """Write everything about one protein."""
        page = f"{REPORTS}/{report_name(explanations[0].protein)}"
        for explanation in explanations:
            self._lines.write(json_line(explanation))
            if isinstance(explanation, ResidueExplanation):
                self._table.write_table(_table_of(explanation))
            self.rows.append(IndexRow(explanation, page))
        (self.folder / page).write_text(render_report(explanations, sequence, self.provenance), encoding="utf-8")

    def add_mutations(self, scans: Sequence[Scan]) -> None:
        """Write mutation scans; the table is there only if anything was scanned."""
        for scan in scans:
            if self._mutations is None:
                self._mutations = parquet.ParquetWriter(self.folder / MUTATIONS, MUTATION_COLUMNS, compression="zstd")
            self._mutations.write_table(_table_of_scan(scan))

    def close(self) -> None:
        """Close the table of mutations."""
        if self._mutations is not None:
            self._mutations.close()

    def finish(self, localisation: Mapping[str, Any] | None) -> None:
        """Write the index."""
        index = render_index(self.rows, self.provenance, localisation)
        (self.folder / INDEX).write_text(index, encoding="utf-8")


@contextmanager
def job_files(folder: Path, provenance: Provenance) -> Iterator[JobFiles]:
    """Open the files of a job in an empty folder."""
    (folder / REPORTS).mkdir()
    with (
        (folder / EXPLANATIONS).open("wb") as lines,
        parquet.ParquetWriter(folder / ATTRIBUTIONS, ATTRIBUTION_COLUMNS, compression="zstd") as table,
    ):
        files = JobFiles(folder, provenance, lines, table)
        try:
            yield files
        finally:
            files.close()


def _table_of(explanation: ResidueExplanation) -> pa.Table:
    length = len(explanation.sequence)
    columns = {
        "protein": [explanation.protein] * length,
        "term": [explanation.term] * length,
        "model": [explanation.model] * length,
        "method": [explanation.method] * length,
        "position": range(1, length + 1),
        "residue": list(explanation.sequence),
        "value": explanation.values,
        "rank": ranks(explanation.values),
        "standard_error": explanation.standard_errors or [None] * length,
    }
    return pa.table(columns, schema=ATTRIBUTION_COLUMNS)


def _table_of_scan(scan: Scan) -> pa.Table:
    explanation, values = scan.explanation, scan.values
    places = [
        (i, a)
        for i in range(values.shape[0])
        for a in range(values.shape[1])
        if not np.isnan(values[i, a]) and explanation.alphabet[a] != explanation.sequence[i]
    ]
    columns = {
        "protein": [explanation.protein] * len(places),
        "term": [explanation.term] * len(places),
        "model": [explanation.model] * len(places),
        "method": [explanation.method] * len(places),
        "position": [i + 1 for i, _ in places],
        "residue": [explanation.sequence[i] for i, _ in places],
        "substitution": [explanation.alphabet[a] for _, a in places],
        "value": [round_significant(float(values[i, a])) for i, a in places],
    }
    return pa.table(columns, schema=MUTATION_COLUMNS)
