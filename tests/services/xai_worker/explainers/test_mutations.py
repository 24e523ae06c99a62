from __future__ import annotations

import numpy as np
import pytest
import torch

from services.xai_worker.explainers import Explainer
from services.xai_worker.explainers.mutations import SUBSTITUTIONS, ExactMutations, VirtualMutations
from tests.contracts.explainer_contract import ExplainerContract
from tests.fakes.paths import CubicPath, LinearPath, linear_path

SEQUENCE = "MKACGHW"


def of_sequence(kind: type[LinearPath] = LinearPath) -> LinearPath:
    path = linear_path(length=len(SEQUENCE), kind=kind)
    path.embedded = path.embed(SEQUENCE)[0]
    return path


class TestVirtualMutations(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return VirtualMutations()


class TestExactMutations(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return ExactMutations()


def test_on_a_linear_function_the_estimate_is_the_truth() -> None:
    path = of_sequence()
    virtual = VirtualMutations().attribute(path, lambda _: None)[1]
    exact = ExactMutations(positions=0).attribute(path, lambda _: None)[1]
    np.testing.assert_allclose(virtual.values, exact.values, atol=1e-4)
    assert exact.agreement == pytest.approx(1.0, abs=1e-3)


def test_every_exact_value_is_the_change_of_the_logit() -> None:
    path = of_sequence(CubicPath)
    values = ExactMutations(positions=0).attribute(path, lambda _: None)[0].values
    for i, letter in enumerate(SEQUENCE):
        assert values[i, SUBSTITUTIONS.index(letter)] == pytest.approx(0.0, abs=1e-5)
        for a in (0, 7, 19):
            mutant = SEQUENCE[:i] + SUBSTITUTIONS[a] + SEQUENCE[i + 1 :]
            with torch.no_grad():
                change = path.logits(path.embed(mutant)) - path.logits(path.inputs())
            assert values[i, a] == pytest.approx(change[0, 0].item(), rel=1e-4, abs=1e-4)


def test_only_the_most_promising_positions_are_computed() -> None:
    path = of_sequence(CubicPath)
    virtual = VirtualMutations().attribute(path, lambda _: None)[0].values
    values = ExactMutations(positions=2).attribute(path, lambda _: None)[0].values
    scanned = np.flatnonzero(~np.isnan(values).all(axis=1))
    assert set(scanned) == set(np.argsort(-np.abs(virtual).max(axis=1))[:2])
