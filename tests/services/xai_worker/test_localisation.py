from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from services.xai_worker.localisation import (
    Localisation,
    average_precision,
    headline,
    random_average_precision,
    read_sites,
)
from services.xai_worker.result import ExplainedScore, Gates, ResidueExplanation, ScalarParity
from shared.errors import DataError, MissingInput

# Few distinct values, so that ties are common.
scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40).filter(
    lambda rows: any(s for _, s in rows)
)


@given(scored)
def test_average_precision_is_scikit_learns_ties_included(rows: list[tuple[int, bool]]) -> None:
    values, is_site = np.array([v for v, _ in rows], float), np.array([s for _, s in rows])
    assert average_precision(values, is_site) == pytest.approx(average_precision_score(is_site, values))


@given(scored, st.integers(0, 20))
def test_residues_that_were_never_seen_come_last(rows: list[tuple[int, bool]], unseen: int) -> None:
    values = np.array([v for v, _ in rows] + [np.nan] * unseen, float)
    is_site = np.array([s for _, s in rows] + [False] * unseen)
    assert average_precision(values, is_site) == pytest.approx(
        average_precision(values[: len(rows)], is_site[: len(rows)])
    )


def test_perfect_and_worst_orders() -> None:
    is_site = np.array([True, True, False, False])
    assert average_precision(np.array([4.0, 3, 2, 1]), is_site) == 1.0
    assert average_precision(np.array([1.0, 2, 3, 4]), is_site) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_random_orders_are_above_prevalence_and_repeatable() -> None:
    first, second = (random_average_precision(50, 3, np.random.default_rng(1)) for _ in range(2))
    assert first == second
    assert 3 / 50 < first < 0.25


def explanation(protein: str, values: list[float | None], term: str = "GO:1", model: str = "cnn") -> ResidueExplanation:
    parity = ScalarParity(recomputed=0, stored=0, difference=0, tolerance=0.01)
    return ResidueExplanation(
        protein=protein, term=term, term_name="t", aspect="MF", model=model, method="occlusion",
        score=ExplainedScore(logit=1, reference=None, folds=[0], probability=None),
        gates=Gates(parity=parity, embedding=None, completeness=None),
        sequence="A" * len(values), values=values, covered=len(values), top=[],
    )  # fmt: skip


def test_the_summary_averages_over_pairs() -> None:
    measured = Localisation(
        {("P1", "GO:1"): frozenset({1}), ("P2", "GO:1"): frozenset({2}), ("P2", "GO:2"): frozenset({1})}
    )
    measured.add(explanation("P1", [3.0, 2.0, 1.0, 0.0]))
    measured.add(explanation("P2", [3.0, 2.0, 1.0, None]))
    measured.add(explanation("P3", [1.0]))  # no known site
    ranking: dict[str, Any] = measured.summary()["rankings"][0]
    assert (ranking["model"], ranking["method"], ranking["n"]) == ("cnn", "occlusion", 2)
    assert ranking["map"] == pytest.approx((1 + 1 / 2) / 2)
    assert ranking["prevalence"] == 0.25
    assert ranking["ci95"] == [0.5, 1.0]
    assert list(ranking["per_term"]) == ["GO:1"]
    assert "MAP 0.750" in headline(measured.summary())


def test_what_else_is_explained_does_not_change_a_pairs_chance() -> None:
    sites = {(p, "GO:1"): frozenset({1, 4}) for p in ("P1", "P2")}
    alone, both = Localisation(sites), Localisation(sites)
    both.add(explanation("P1", [1.0] * 5, model="other"))
    for measured in (alone, both):
        measured.add(explanation("P2", [2.0, 1.0, 0.0, 0.5, 0.1]))
    assert alone.summary()["rankings"][0] == both.summary()["rankings"][0]


def test_nothing_measured_is_said() -> None:
    assert "no explained pair" in headline(Localisation({}).summary())


def test_a_site_behind_the_end_is_refused() -> None:
    with pytest.raises(DataError, match="site 9 of P1 lies behind its 2 residues"):
        Localisation({("P1", "GO:1"): frozenset({9})}).add(explanation("P1", [1.0, 2.0]))


def test_reads_sites(tmp_path: Path) -> None:
    path = tmp_path / "sites.tsv"
    path.write_text("accession\tterm\tposition\nP2\tGO:1\t7\nP1\tGO:1\t3\nP1\tGO:1\t1\n")
    assert read_sites(path) == {("P1", "GO:1"): frozenset({1, 3}), ("P2", "GO:1"): frozenset({7})}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("id\tterm\n", ":1"),
        ("accession\tterm\tposition\nP1\tGO:1\t0\n", ":2"),
        ("accession\tterm\tposition\nP1\tGO:1\t3\nP1\n", ":3"),
    ],
)
def test_wrong_sites_are_refused_by_line(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "sites.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"sites.tsv{where}"):
        read_sites(path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"none\.tsv"):
        read_sites(tmp_path / "none.tsv")
