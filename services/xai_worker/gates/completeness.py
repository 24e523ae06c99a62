"""Completeness as it is written down."""

from __future__ import annotations

from services.xai_worker.explainers import Completeness
from services.xai_worker.result import CompletenessGate


def completeness_gate(completeness: Completeness | None) -> CompletenessGate | None:
    """None where the method compares with no baseline."""
    if completeness is None:
        return None
    return CompletenessGate(
        explained=completeness.explained,
        attributed=completeness.attributed,
        error=completeness.error,
        tolerance=completeness.tolerance,
        steps=completeness.steps,
        converged=completeness.converged,
    )
