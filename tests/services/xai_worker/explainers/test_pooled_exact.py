from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.xai_worker.explainers import Explainer
from services.xai_worker.explainers.pooled_exact import PooledExact
from tests.contracts.explainer_contract import ExplainerContract
from tests.fakes.paths import LinearPath, PooledMeanPath, linear_path


class TestPooledExact(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return PooledExact()

    def path(self, **options: Any) -> LinearPath:
        return linear_path(**{**options, "kind": PooledMeanPath})

    @pytest.mark.skip(reason="a position's share is of its state; the mean has one weight for all positions")
    def test_what_does_not_matter_gets_nothing(self, explainer: Explainer) -> None: ...

    @pytest.mark.skip(reason="the fake's head saturates")
    def test_twice_the_function_is_twice_the_attribution(self, explainer: Explainer) -> None: ...

    @pytest.mark.skip(reason="the mean is over every residue; encoders see them all")
    def test_residues_the_model_never_sees_are_missing_not_zero(self, explainer: Explainer) -> None: ...


def test_the_parts_sum_exactly_and_say_what_they_are_not() -> None:
    path = linear_path(length=9, kind=PooledMeanPath)
    for item in PooledExact().attribute(path, lambda _: None):
        assert item.reference is not None
        assert item.values.sum() == pytest.approx(item.score - item.reference, abs=1e-6)
        assert item.note is not None
        assert "not evidence for a site" in item.note


def test_equal_states_have_equal_shares() -> None:
    path = linear_path(length=5, kind=PooledMeanPath)
    path.embedded[3] = path.embedded[1]
    values = PooledExact().attribute(path, lambda _: None)[0].values
    assert values[3] == values[1]
    assert np.ptp(values) > 0


def test_a_path_that_pools_otherwise_is_not_accepted() -> None:
    assert not PooledExact().accepts(linear_path())
    with pytest.raises(TypeError, match="does not pool"):
        PooledExact().attribute(linear_path(), lambda _: None)
