"""The rows of `make bench`: one file each, one line in `ROWS`."""

from __future__ import annotations

from collections.abc import Mapping

ROWS: Mapping[str, str] = {
    "embedding": "benchmarks.rows.embedding",
    "t5": "benchmarks.rows.t5",
    "knn": "benchmarks.rows.knn",
    "ig": "benchmarks.rows.ig",
    "propagation": "benchmarks.rows.propagation",
    "evaluation": "benchmarks.rows.evaluation",
    "mlp": "benchmarks.rows.mlp",
    "logreg": "benchmarks.rows.logreg",
    "gcn": "benchmarks.rows.gcn",
    "parsing": "benchmarks.rows.parsing",
    "gaf": "benchmarks.rows.gaf",
    "knn_reference": "benchmarks.rows.knn_reference",
}
"""Name -> module with `compare(rounds) -> list[Comparison]`; a module is imported only when its row runs."""
