"""Annotations from GOA that are not the benchmark's own labels."""

from __future__ import annotations

import datetime

from pydantic import Field

from shared.config.base import Section


class GoaConfig(Section):
    """Stage 4. Rows with a dropped code never become a prior.

    The default codes are those that the CAFA benchmarks take labels from.
    """

    dropped_codes: list[str] = Field(
        ["EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "TAS", "IC", "HTP", "HDA", "HMP", "HGI", "HEP"]
    )
    frozen_at: datetime.date | None = Field(None, description="rows assigned after this date are dropped")
    drop_stated_labels: bool = Field(True, description="drop rows that imply a label stated for the same train protein")
