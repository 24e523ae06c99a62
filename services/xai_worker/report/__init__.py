"""Pages for people: one self-contained file per protein, and an index."""

from __future__ import annotations

from services.xai_worker.report.html import IndexRow, index_row, render_index, render_report, report_name

__all__ = ["IndexRow", "index_row", "render_index", "render_report", "report_name"]
