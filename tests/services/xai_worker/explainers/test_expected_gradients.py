from __future__ import annotations

import numpy as np
import pytest
import torch

from services.xai_worker.explainers import Explainer
from services.xai_worker.explainers.expected_gradients import ExpectedGradients
from tests.contracts.explainer_contract import ExplainerContract
from tests.fakes.paths import linear_path


class TestExpectedGradients(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return ExpectedGradients()


def test_of_a_linear_function_they_are_the_mean_over_the_background_with_its_standard_error() -> None:
    path = linear_path(length=6)
    method = ExpectedGradients(background=("ACDEFGHIKL", "MNPQ"), draws=3)
    item = method.attribute(path, lambda _: None)[0]
    background = torch.stack([path.embed(s)[0] for s in ("ACDEFG", "HIKLMN", "PQACDE")])
    each = ((path.embedded - background) * path.weights[0]).sum(-1).numpy()
    np.testing.assert_allclose(item.values, each.mean(0), atol=1e-5)
    assert item.standard_errors is not None
    np.testing.assert_allclose(item.standard_errors, each.std(0, ddof=1) / np.sqrt(3), atol=1e-5)
    references = [path.logits(one[None])[0, 0].item() for one in background]
    assert item.reference == pytest.approx(np.mean(references), abs=1e-5)
    assert item.completeness is not None
    assert item.completeness.converged


def test_more_draws_make_the_error_smaller() -> None:
    path = linear_path(length=30, seed=2)
    few, many = (ExpectedGradients(draws=n).attribute(path, lambda _: None)[0].standard_errors for n in (4, 64))
    assert few is not None
    assert many is not None
    assert many.mean() < 0.5 * few.mean()
