"""The long table of attributions as parquet: the job's `attributions.parquet`, and one protein's rows as an export.

Positions are 1-based indices into the sequence; `value` is null where the model never sees the residue.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyarrow import parquet

from services.xai_worker.exports.base import Explained, MutationTable
from services.xai_worker.result import ResidueExplanation, ranks

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
        ("value", pa.float64()),
    ]
)


def table_of(explanation: ResidueExplanation) -> pa.Table:
    """One row per residue."""
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


def mutation_table(mutations: MutationTable) -> pa.Table:
    """One row per (position, substitution)."""
    count = len(mutations.rows)
    position, residue, substitution, value = zip(*mutations.rows, strict=True) if count else ((), (), (), ())
    columns = {
        "protein": [mutations.protein] * count,
        "term": [mutations.term] * count,
        "model": [mutations.model] * count,
        "method": [mutations.method] * count,
        "position": position,
        "residue": residue,
        "substitution": substitution,
        "value": value,
    }
    return pa.table(columns, schema=MUTATION_COLUMNS)


class Parquet:
    """One protein's rows of attributions.parquet."""

    name, what = "parquet", "one protein's rows of attributions.parquet"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file."""
        tables = [table_of(track.explanation) for track in protein.tracks]
        if tables:
            sink = pa.BufferOutputStream()
            parquet.write_table(pa.concat_tables(tables), sink, compression="zstd")
            yield f"{protein.name}.parquet", sink.getvalue().to_pybytes()
