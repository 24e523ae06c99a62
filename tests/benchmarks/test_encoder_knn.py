"""The comparison of encoders: the composition by its definition, and what is held to gates."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.encoder_knn import LETTERS, composition, gates


def test_composition_is_the_share_of_each_amino_acid() -> None:
    found = composition(["AACX", "W" * 5])
    assert found.shape == (2, 20)
    assert found[0, LETTERS.index("A")] == pytest.approx(2 / 3)
    assert found[0, LETTERS.index("C")] == pytest.approx(1 / 3)
    assert found[1, LETTERS.index("W")] == 1
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_a_trained_encoder_must_beat_the_composition_and_random_weights() -> None:
    figures = {
        "composition": {"MF": 0.3, "BP": 0.2, "CC": 0.4},
        "run: esm2": {"MF": 0.9, "BP": 0.9, "CC": 0.9},
        "small=random-init(0)": {"MF": 0.35, "BP": 0.1, "CC": 0.4},
        "small=out/encoder": {"MF": 0.34, "BP": 0.3, "CC": 0.41},
    }
    held = {gate.name: gate.holds for gate in gates(figures)}
    assert len(held) == 6
    assert [name for name, holds in held.items() if not holds] == ["small=out/encoder above small=random-init(0) in MF"]
    assert gates({name: figures[name] for name in list(figures)[:3]}) == []
