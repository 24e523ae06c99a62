"""The files of one job: a line, table rows and a page per protein while it runs, the index at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from services.xai_worker.provenance import Provenance
from services.xai_worker.report import IndexRow, render_index, render_report, report_name
from services.xai_worker.result import ChannelExplanation, ResidueExplanation, json_line, ranks

EXPLANATIONS, ATTRIBUTIONS, INDEX, REPORTS = "explanations.jsonl", "attributions.parquet", "index.html", "reports"
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
    ]
)


class JobFiles:
    """Writes explanations protein by protein; memory holds one protein and a line per explanation."""

    def __init__(self, folder: Path, provenance: Provenance, lines: BinaryIO, table: parquet.ParquetWriter) -> None:
        self.folder, self.provenance = folder, provenance
        self._lines, self._table = lines, table
        self.rows: list[IndexRow] = []

    def add_protein(self, explanations: Sequence[ResidueExplanation | ChannelExplanation], sequence: str) -> None:
        """Write everything about one protein."""
        page = f"{REPORTS}/{report_name(explanations[0].protein)}"
        for explanation in explanations:
            self._lines.write(json_line(explanation))
            if isinstance(explanation, ResidueExplanation):
                self._table.write_table(_table_of(explanation))
            self.rows.append(IndexRow(explanation, page))
        (self.folder / page).write_text(render_report(explanations, sequence, self.provenance), encoding="utf-8")

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
        yield JobFiles(folder, provenance, lines, table)


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
    }
    return pa.table(columns, schema=ATTRIBUTION_COLUMNS)
