"""Exports, by registry: what other programs read. One file per format; docs/reports.md describes each."""

from __future__ import annotations

from services.xai_worker.exports.base import Explained, Exporter, MutationTable, Track
from services.xai_worker.exports.bed import Bed
from services.xai_worker.exports.bedgraph import BedGraph
from services.xai_worker.exports.chimerax import ChimeraX
from services.xai_worker.exports.figures import Png, Svg
from services.xai_worker.exports.gff3 import Gff3
from services.xai_worker.exports.json_document import JsonDocument
from services.xai_worker.exports.molviewspec import MolViewSpec
from services.xai_worker.exports.nightingale import Nightingale
from services.xai_worker.exports.pymol import PyMol
from services.xai_worker.exports.table import Parquet
from services.xai_worker.exports.uniprot import UniProtFeatures

EXPORTERS: dict[str, Exporter] = {
    exporter.name: exporter
    for exporter in (
        JsonDocument(), Parquet(), Gff3(), Bed(), BedGraph(), UniProtFeatures(), Nightingale(),
        ChimeraX(), PyMol(), MolViewSpec(), Svg(), Png(),
    )
}  # fmt: skip

__all__ = ["EXPORTERS", "Explained", "Exporter", "MutationTable", "Track"]
