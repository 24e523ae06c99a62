"""The files of one job: a line, table rows, a page and exports per protein while it runs, the index at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pyarrow import parquet

from services.xai_worker.exports import EXPORTERS, Explained
from services.xai_worker.exports.table import ATTRIBUTION_COLUMNS, MUTATION_COLUMNS, mutation_table, table_of
from services.xai_worker.naming import safe_name
from services.xai_worker.parts import Made
from services.xai_worker.provenance import Provenance
from services.xai_worker.report import IndexRow, index_row, render_index, render_report
from services.xai_worker.result import ResidueExplanation, json_line
from services.xai_worker.structure import Structure

EXPLANATIONS, ATTRIBUTIONS, INDEX, REPORTS = "explanations.jsonl", "attributions.parquet", "index.html", "reports"
LOCALISATION, EXPORTS, MUTATIONS = "localisation.json", "exports", "mutations.parquet"


class JobFiles:
    """Writes explanations protein by protein; memory holds one protein and a line per explanation.

    Args:
        folder: an empty folder.
        provenance: stands on every page.
        lines: the open explanations.jsonl.
        table: the open attributions.parquet.
        exports: names of formats.
        structures: protein -> its structure, where one was given.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Provenance,
        lines: BinaryIO,
        table: parquet.ParquetWriter,
        *,
        exports: Sequence[str] = (),
        structures: Mapping[str, Structure] | None = None,
    ) -> None:
        self.folder, self.provenance = folder, provenance
        self.exports, self.structures = list(exports), structures or {}
        self._lines, self._table = lines, table
        self._mutations: parquet.ParquetWriter | None = None
        self.rows: list[IndexRow] = []

    def add_protein(self, made: Made, sequence: str) -> None:
        """Write everything about one protein."""
        explanations = made.explanations
        protein = explanations[0].protein
        name = safe_name(protein)
        page = f"{REPORTS}/{name}.html"
        for explanation in explanations:
            self._lines.write(json_line(explanation))
            if isinstance(explanation, ResidueExplanation):
                self._table.write_table(table_of(explanation))
            self.rows.append(index_row(explanation, page, self.provenance.job_id))
        for mutations in made.mutations:
            self._mutation_writer().write_table(mutation_table(mutations))
        structure = self.structures.get(protein)
        explained = Explained(protein, name, sequence, explanations, made.mutations, structure)
        written = self._export(explained)
        (self.folder / page).write_text(render_report(explained, self.provenance, written), encoding="utf-8")

    def _mutation_writer(self) -> parquet.ParquetWriter:
        """Open mutations.parquet with its first row: a job without a mutation scan has no such file."""
        if self._mutations is None:
            self._mutations = parquet.ParquetWriter(self.folder / MUTATIONS, MUTATION_COLUMNS, compression="zstd")
        return self._mutations

    def close(self) -> None:
        """End the mutation table, if there is one."""
        if self._mutations is not None:
            self._mutations.close()

    def finish(self, localisation: Mapping[str, Any] | None) -> None:
        """Write the index."""
        index = render_index(self.rows, self.provenance, localisation)
        (self.folder / INDEX).write_text(index, encoding="utf-8")

    def _export(self, explained: Explained) -> dict[str, list[str]]:
        """Format -> files written, relative to the job's folder."""
        written: dict[str, list[str]] = {}
        for name in self.exports:
            for file, content in EXPORTERS[name].files(explained):
                path = f"{EXPORTS}/{name}/{file}"
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).write_bytes(content)
                written.setdefault(name, []).append(path)
        return written


@contextmanager
def job_files(
    folder: Path,
    provenance: Provenance,
    exports: Sequence[str] = (),
    structures: Mapping[str, Structure] | None = None,
) -> Iterator[JobFiles]:
    """Open the files of a job in an empty folder."""
    (folder / REPORTS).mkdir()
    with (
        (folder / EXPLANATIONS).open("wb") as lines,
        parquet.ParquetWriter(folder / ATTRIBUTIONS, ATTRIBUTION_COLUMNS, compression="zstd") as table,
    ):
        files = JobFiles(folder, provenance, lines, table, exports=exports, structures=structures)
        try:
            yield files
        finally:
            files.close()
