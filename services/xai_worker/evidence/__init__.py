"""Findings about one protein's final scores, by name. To add one: a file here, a line below, a model in result.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.xai_worker.evidence.account import Account
from services.xai_worker.evidence.base import Context, Evidence
from services.xai_worker.evidence.counterfactuals import ModalityCounterfactual, ResidueCounterfactual
from services.xai_worker.evidence.go_path import GoPath
from services.xai_worker.evidence.neighbours import KnnShares
from services.xai_worker.evidence.shapley import Shapley

EVIDENCE: Mapping[str, Callable[[], Evidence]] = {
    Shapley.name: Shapley,
    Account.name: Account,
    KnnShares.name: KnnShares,
    GoPath.name: GoPath,
    ModalityCounterfactual.name: ModalityCounterfactual,
    ResidueCounterfactual.name: ResidueCounterfactual,
}

__all__ = ["EVIDENCE", "Context", "Evidence"]
