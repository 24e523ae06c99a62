from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.explainers import Explainer
from services.xai_worker.explainers.stacker_parts import RELATIONS, StackerParts, parts_of
from tests.contracts.explainer_contract import ExplainerContract
from tests.fakes.paths import ChannelPath, CubicPath, LinearPath, linear_path


class TestStackerParts(ExplainerContract):
    @pytest.fixture
    def explainer(self) -> Explainer:
        return StackerParts()

    def path(self, **options: Any) -> LinearPath:
        return linear_path(**{"kind": ChannelPath, **options})

    def test_values_keep_nodes_and_channels_apart_and_sum_to_the_whole(self) -> None:
        path = linear_path(length=5, width=4, kind=CubicPath)
        for item in StackerParts().attribute(path, lambda _: None):
            assert item.values.shape == (5, 4)
            assert item.reference is not None
            assert item.values.sum() == pytest.approx(item.score - item.reference, rel=0.011)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 999))
def test_grouping_keeps_the_sum_of_every_channel(nodes: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, where = rng.normal(size=(nodes, channels)), rng.integers(0, 4, nodes)
    relations = {relation: where == number for number, relation in enumerate(RELATIONS)}
    names = [f"c{i}" for i in range(channels)]
    parts = parts_of(values, names, relations)
    assert [(part.channel, part.relation) for part in parts] == [(c, r) for c in names for r in RELATIONS]
    for column, name in enumerate(names):
        total = sum(part.value for part in parts if part.channel == name)
        assert total == pytest.approx(values[:, column].sum())


def test_columns_of_one_name_are_one_part_and_keep_the_total() -> None:
    values = np.random.default_rng(2).normal(size=(5, 4))
    relations = {relation: np.arange(5) % 4 == place for place, relation in enumerate(RELATIONS)}
    parts = parts_of(values, ["level1:mlp", "cross", "missing", "cross"], relations)
    assert [part.channel for part in parts[:: len(RELATIONS)]] == ["level1:mlp", "cross", "missing"]
    assert sum(part.value for part in parts) == pytest.approx(values.sum())
    crossed = {part.relation: part.value for part in parts if part.channel == "cross"}
    assert crossed["self"] == pytest.approx(values[relations["self"]][:, [1, 3]].sum())
