"""Ways to explain a logit, by name. To add one: a file here, a line below; the contract suite covers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.xai_worker.explainers.base import Attribution, Completeness, Explainer, Path, ResiduePath, StatePath
from services.xai_worker.explainers.expected_gradients import ExpectedGradients
from services.xai_worker.explainers.integrated_gradients import IntegratedGradients
from services.xai_worker.explainers.mutations import ExactMutations, VirtualMutations
from services.xai_worker.explainers.occlusion import Occlusion
from services.xai_worker.explainers.pooled_exact import PooledExact
from services.xai_worker.explainers.stacker_parts import StackerParts

EXPLAINERS: Mapping[str, Callable[[], Explainer]] = {
    Occlusion.name: Occlusion,
    IntegratedGradients.name: IntegratedGradients,
    ExpectedGradients.name: ExpectedGradients,
    PooledExact.name: PooledExact,
    VirtualMutations.name: VirtualMutations,
    ExactMutations.name: ExactMutations,
    StackerParts.name: StackerParts,
}

__all__ = ["EXPLAINERS", "Attribution", "Completeness", "Explainer", "Path", "ResiduePath", "StatePath"]
