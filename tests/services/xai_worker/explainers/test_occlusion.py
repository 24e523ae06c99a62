from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.explainers import Explainer
from services.xai_worker.explainers.occlusion import Occlusion
from tests.contracts.explainer_contract import ExplainerContract
from tests.fakes.paths import LinearPath, linear_path


class TestOcclusion(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return Occlusion()

    def test_a_linear_model_loses_exactly_the_masked_residues_share(self) -> None:
        path = linear_path()
        wanted = torch.einsum("ld,tld->tl", path.embedded, path.weights).numpy()
        found = np.stack([item.values for item in Occlusion().attribute(path, lambda _: None)])
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_a_window_hides_its_neighbours_and_is_cut_at_the_ends(self) -> None:
        path = linear_path(length=6)
        share = torch.einsum("ld,tld->tl", path.embedded, path.weights).numpy()
        explainer = Occlusion(window=5)
        wanted = [[row[max(0, i - 2) : i + 3].sum() for i in range(6)] for row in share]
        assert explainer.label == "occlusion_5"
        np.testing.assert_allclose(
            [item.values for item in explainer.attribute(path, lambda _: None)], wanted, atol=1e-5
        )

    @given(length=st.integers(1, 40), batch=st.integers(1, 100))
    def test_the_batch_size_does_not_matter(self, length: int, batch: int) -> None:
        path = linear_path(length=length)
        small = Occlusion(batch_residues=batch).attribute(path, lambda _: None)
        whole = Occlusion().attribute(path, lambda _: None)
        np.testing.assert_allclose(small[0].values, whole[0].values, atol=1e-6)

    def test_equal_residues_of_a_position_blind_model_are_equal(self) -> None:
        """Symmetric embeddings: a model that only counts cannot prefer one of two equal residues."""
        residue = torch.tensor([1.0, -2.0])
        path = LinearPath(residue.expand(5, 2).clone(), torch.ones(1, 5, 2))
        values = Occlusion().attribute(path, lambda _: None)[0].values
        assert np.unique(values.round(6)).tolist() == [-1.0]
