from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.explainers import Attribution, Explainer
from services.xai_worker.explainers.integrated_gradients import IntegratedGradients
from services.xai_worker.explainers.quadrature import PIECE_STEPS, Quadrature, mean_gradients
from tests.contracts.explainer_contract import ExplainerContract
from tests.fakes.encoder_paths import encoder_path
from tests.fakes.paths import CubicPath, JaggedPath, LinearPath, ReluPath, linear_path


def attribute(path: LinearPath, **options: float) -> list[Attribution]:
    return IntegratedGradients(Quadrature(**options)).attribute(path, lambda _: None)


class TestIntegratedGradients(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return IntegratedGradients()


def test_a_linear_model_gives_weight_times_distance_from_the_baseline() -> None:
    path = linear_path()
    moved = path.embedded - path.embedded.mean(0)
    wanted = torch.einsum("ld,tld->tl", moved, path.weights).numpy()
    np.testing.assert_allclose([item.values for item in attribute(path)], wanted, atol=1e-5)


def test_a_relu_seen_from_both_sides_of_its_kink() -> None:
    """One residue walks from -1 to 3 through relu: the path is active on its last three quarters."""
    path = ReluPath(torch.tensor([[2.5], [-1.5]]), torch.tensor([[[1.0], [0.0]]]))
    assert path.logits(path.baseline()).item() == pytest.approx(1.0)
    item = attribute(path)[0]
    assert item.values.tolist() == pytest.approx([2.0, 0.0], abs=0.02)
    assert item.reference == pytest.approx(1.0)


def test_agrees_with_captum_and_with_its_own_delta() -> None:
    path = linear_path(length=12, kind=CubicPath)
    captum = CaptumIntegratedGradients(path.logits)
    wanted, delta = captum.attribute(
        path.inputs(), path.baseline(), target=1, n_steps=8, method="gausslegendre", return_convergence_delta=True
    )
    item = attribute(path)[1]
    assert item.completeness is not None
    assert item.completeness.steps == 8
    np.testing.assert_allclose(item.values, wanted[0].sum(-1).numpy(), rtol=1e-4, atol=1e-4)
    assert abs(item.completeness.attributed - item.completeness.explained) == pytest.approx(abs(delta.item()), abs=1e-3)


@given(seed=st.integers(0, 10_000), length=st.integers(2, 30))
def test_parts_sum_to_the_whole(seed: int, length: int) -> None:
    path = linear_path(length=length, seed=seed, kind=CubicPath)
    for item in attribute(path):
        assert item.completeness is not None
        assert item.reference is not None
        whole = item.score - item.reference
        assert np.nansum(item.values) == pytest.approx(whole, rel=0.011, abs=2e-5 * max(1.0, abs(item.score)))
        assert item.completeness.explained == pytest.approx(whole)
        assert item.completeness.converged == (item.completeness.error <= 0.01)


def test_more_steps_are_taken_until_the_parts_sum_up() -> None:
    path = linear_path(length=20, seed=3, kind=ReluPath)
    loose, strict = attribute(path, tolerance=0.5), attribute(path, tolerance=1e-4)
    assert loose[0].completeness is not None
    assert strict[0].completeness is not None
    assert loose[0].completeness.steps <= 16
    assert strict[0].completeness.steps > 16
    assert strict[0].completeness.error <= loose[0].completeness.error


def test_what_does_not_converge_is_flagged_and_not_hidden() -> None:
    item = attribute(linear_path(kind=JaggedPath))[0]
    assert item.completeness is not None
    assert not item.completeness.converged
    assert item.completeness.error > 0.01
    assert np.isfinite(item.values).all()


def test_the_relative_error_has_a_floor_where_nothing_changes() -> None:
    path = LinearPath(torch.ones(4, 2), torch.ones(1, 4, 2))
    item = attribute(path)[0]
    assert item.completeness is not None
    assert item.completeness.converged
    assert item.completeness.error < 0.01


def test_an_encoder_agrees_with_captum_on_the_same_line() -> None:
    """Float32, a real ESM-2 architecture with random weights, five terms: 1e-4 of the largest value."""
    path = encoder_path("esm2_tiny", 60)
    captum = CaptumIntegratedGradients(path.logits)
    found = mean_gradients(
        lambda points: path.logits(points[0]), (path.inputs(),), (path.baseline(),), range(5), steps=16, batch=4
    )
    for term, (mean,) in enumerate(found):
        ours = (mean * (path.inputs() - path.baseline())[0]).sum(-1)
        wanted = captum.attribute(
            path.inputs(), path.baseline(), target=term, n_steps=16, method="gausslegendre"
        )[0].sum(-1)  # fmt: skip
        assert (ours - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_protein_beyond_the_models_window_is_explained_to_its_end() -> None:
    path = encoder_path("esm2_tiny", 130, window=50)
    for item in IntegratedGradients().attribute(path, lambda _: None):
        assert item.completeness is not None
        assert item.completeness.converged
        assert np.isfinite(item.values).all()
        assert (np.abs(item.values[[0, 49, 60, 129]]) > 0).all()


def test_a_coarse_grid_is_taken_only_where_it_is_ten_times_better() -> None:
    for seed in range(20):
        for item in attribute(linear_path(length=12, seed=seed, kind=ReluPath)):
            assert item.completeness is not None
            if item.completeness.steps == 8:
                assert item.completeness.error <= 0.001


class KinkedPath(LinearPath):
    """F(e) = relu(1000 (linear - a) ) - relu(1000 (linear - a) - 1): flat, a steep ramp somewhere on the line, flat."""

    model = "kinked"
    at = 0.3711

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        low, high = (super(KinkedPath, self).logits(x) for x in (self.baseline(), self.inputs()))
        walked = 1000 * ((super().logits(inputs) - low) / (high - low) - self.at)
        return torch.relu(walked) - torch.relu(walked - 1)


def test_a_ramp_between_the_nodes_is_found_by_halving_the_line() -> None:
    """The ramp is a thousandth of the line: 256 Gauss-Legendre nodes pass it in one or no step."""
    path = linear_path(length=9, kind=KinkedPath)
    nodes = mean_gradients(
        lambda points: path.logits(points[0]), (path.inputs(),), (path.baseline(),), range(2), steps=256, batch=64
    )
    moved = (path.inputs() - path.baseline())[0]
    assert all(abs(float((mean * moved).sum()) - 1.0) > 0.01 for (mean,) in nodes), "the plain rule finds it, too"
    parts = torch.einsum("ld,tld->tl", moved, path.weights)
    for item, part in zip(attribute(path), parts, strict=True):
        assert item.completeness is not None
        assert item.completeness.converged
        assert item.completeness.steps <= 256
        assert item.completeness.steps % PIECE_STEPS == 0
        # The ramp follows the linear function, so its parts are that function's, scaled.
        np.testing.assert_allclose(
            item.values, (part / part.sum()).numpy(), atol=0.01 * float(part.abs().max() / part.sum().abs())
        )


def test_halving_is_the_same_every_time() -> None:
    path = linear_path(length=9, kind=KinkedPath)
    first, second = attribute(path), attribute(path)
    assert all((a.values == b.values).all() for a, b in zip(first, second, strict=True))
