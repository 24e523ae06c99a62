"""What every explainer must do; a method's own test file is a subclass with an `explainer` fixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.xai_worker.explainers import EXPLAINERS, Explainer
from tests.fakes.paths import LinearPath, ReluPath, linear_path


class ExplainerContract:
    """Subclass, and give an `explainer` fixture with the method's default options."""

    @pytest.fixture
    def explainer(self) -> Explainer:
        raise NotImplementedError

    def path(self, **options: Any) -> LinearPath:
        """A path that the method explains; as `linear_path`."""
        return linear_path(**options)

    def test_is_registered_under_its_name(self, explainer: Explainer) -> None:
        assert type(EXPLAINERS[explainer.name]()) is type(explainer)
        assert explainer.label == explainer.name

    def test_gives_one_attribution_per_term_and_reports_its_work(self, explainer: Explainer) -> None:
        path = self.path(terms=3)
        reported: list[int] = []
        found = explainer.attribute(path, reported.append)
        assert len(found) == 3
        assert 0 < sum(reported) <= explainer.work(path)

    def test_scores_are_the_explained_functions_own(self, explainer: Explainer) -> None:
        path = self.path(kind=ReluPath)
        wanted = path.logits(path.inputs())[0].tolist()
        assert [item.score for item in explainer.attribute(path, lambda _: None)] == pytest.approx(wanted)

    def test_twice_is_bitwise_the_same(self, explainer: Explainer) -> None:
        path = self.path(kind=ReluPath, length=20)
        first, second = (explainer.attribute(path, lambda _: None) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert one.values.tobytes() == other.values.tobytes()
            assert one.completeness == other.completeness

    def test_what_does_not_matter_gets_nothing(self, explainer: Explainer) -> None:
        path = self.path(length=6)
        path.weights[:, 2] = 0.0
        for item in explainer.attribute(path, lambda _: None):
            assert np.nanmax(np.abs(item.values[2])) < 1e-6
            assert np.nanmax(np.abs(item.values)) > 1e-3

    def test_twice_the_function_is_twice_the_attribution(self, explainer: Explainer) -> None:
        path = self.path()
        double = type(path)(path.embedded, 2 * path.weights)
        for one, other in zip(*(explainer.attribute(p, lambda _: None) for p in (path, double)), strict=True):
            np.testing.assert_allclose(2 * one.values, other.values, atol=1e-5)

    def test_residues_the_model_never_sees_are_missing_not_zero(self, explainer: Explainer) -> None:
        if explainer.subject == "channels":
            pytest.skip("the stacker sees all of its channels")
        path = self.path(length=8, unseen=(3, 4))
        for item in explainer.attribute(path, lambda _: None):
            missing = np.isnan(item.values if item.values.ndim == 1 else item.values[:, 0])
            assert missing.tolist() == [i in (3, 4) for i in range(8)]

    def test_takes_only_paths_that_it_accepts(self, explainer: Explainer) -> None:
        assert explainer.accepts(self.path())

    def test_leaves_no_gradient_behind(self, explainer: Explainer) -> None:
        path = self.path()
        explainer.attribute(path, lambda _: None)
        assert path.embedded.grad is None
        assert torch.is_grad_enabled()
