from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cafaeval.evaluation import cafa_eval
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.train import evaluation_files
from services.train.evaluation import evaluate, evaluate_files, metric_keys
from services.train.evaluation_files import read_information, read_predictions, read_truth
from shared.errors import DataError, MissingInput
from shared.logs import check_keys
from shared.ontology import ASPECTS, Ontology
from tests.fakes.ontologies import NAMESPACES, csr, make_ontology, obo_text, ontologies, parse_text, score_matrices

COLUMNS = {
    "n": "covered",
    "cov": "coverage",
    "tp": "true_positives",
    "mi": "misinformation",
    "ru": "uncertainty",
    "pr": "precision",
    "rc": "recall",
    "f": "f",
    "s": "s",
}


def write_files(
    folder: Path, ontology: Ontology, scores: np.ndarray, truth: np.ndarray, bits: np.ndarray
) -> dict[str, Path]:
    """One evaluation as the files that cafaeval reads."""
    (folder / "pred").mkdir()
    paths = {
        "obo": folder / "go.obo",
        "truth": folder / "truth.tsv",
        "pred": folder / "pred/p.tsv",
        "ia": folder / "ia.tsv",
    }
    paths["obo"].write_text(obo_text(ontology))
    paths["truth"].write_text("".join(f"P{p}\t{ontology.terms[t]}\n" for p, t in zip(*np.nonzero(truth), strict=True)))
    cells = zip(*np.nonzero(scores), strict=True)
    paths["pred"].write_text("".join(f"P{p}\t{ontology.terms[t]}\t{scores[p, t]:.3f}\n" for p, t in cells))
    paths["ia"].write_text("".join(f"{term}\t{bits[i]}\n" for i, term in enumerate(ontology.terms)))
    return paths


def assert_equals_cafaeval(paths: dict[str, Path], *, propagation: str, no_orphans: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # cafaeval's pandas calls
        table, _ = cafa_eval(
            str(paths["obo"]),
            str(paths["pred"].parent),
            str(paths["truth"]),
            ia=str(paths["ia"]),
            no_orphans=no_orphans,
            prop=propagation,
        )
    ontology = Ontology.parse(paths["obo"])
    ids, truth = read_truth(paths["truth"], ontology)
    scores = read_predictions(paths["pred"], ids, ontology)
    bits = read_information(paths["ia"], ontology)
    ours = evaluate(scores, truth, ontology, bits, propagation=propagation, no_orphans=no_orphans)  # type: ignore[arg-type]
    for aspect, namespace in NAMESPACES.items():
        spaces = [] if table is None else table.index.get_level_values("ns").unique()
        if namespace not in spaces:
            assert ours[aspect].coverage in {None, 0}
            continue
        theirs = table.xs(namespace, level="ns").reset_index()
        metrics = ours[aspect]
        assert metrics.weighted is not None
        assert np.count_nonzero(metrics.curve.coverage) == len(theirs)
        assert metrics.curve.thresholds[: len(theirs)] == pytest.approx(theirs["tau"].to_numpy(), abs=0)
        for column, name in COLUMNS.items():
            for suffix, curve in (("", metrics.curve), ("_w", metrics.weighted)):
                mine = getattr(curve, name)[: len(theirs)]
                assert mine == pytest.approx(theirs[column + suffix].to_numpy(), abs=1e-9), (aspect, column + suffix)
        assert metrics.fmax == pytest.approx(theirs["f"].max(), abs=1e-9)
        assert metrics.fmax_w == pytest.approx(theirs["f_w"].max(), abs=1e-9)
        assert metrics.smin == pytest.approx(theirs["s_w"].min(), abs=1e-9)
        assert metrics.coverage == pytest.approx(theirs["cov"].max(), abs=1e-9)
        points = theirs[["rc", "pr"]].to_numpy()[::-1].T
        assert metrics.aupr == pytest.approx(np.trapezoid(points[1], points[0]), abs=1e-9)


# Shrinking would call cafaeval hundreds of times.
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(ontologies(), st.data(), st.sampled_from(["max", "fill"]), st.booleans())
def test_small_cases_equal_cafaeval(
    tmp_path_factory: pytest.TempPathFactory,
    ontology: Ontology,
    data: st.DataObject,
    propagation: str,
    no_orphans: bool,
) -> None:
    truth = data.draw(score_matrices(len(ontology), rows=5)) > 0
    truth[0] = True
    scores = data.draw(score_matrices(len(ontology), rows=5))
    scores[0, -3:] = 0.505  # cafaeval fails where an aspect has scores of 0 only
    scores[1, [0, 1, 2]] = [0.3, 0.005, 1.0]
    bits = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.7, 6.0]), min_size=len(ontology), max_size=len(ontology)))
    )
    paths = write_files(tmp_path_factory.mktemp("cafa"), ontology, scores, truth, bits)
    assert_equals_cafaeval(paths, propagation=propagation, no_orphans=no_orphans)


@pytest.mark.real_data
@pytest.mark.parametrize("propagation", ["max", "fill"])
def test_the_tiny_baseline_equals_cafaeval(gowhy_data: Path, tmp_path: Path, propagation: str) -> None:
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred/naive.tsv").write_bytes(
        gzip.decompress((gowhy_data / "baselines/tiny/pred_naive.tsv.gz").read_bytes())
    )
    tiny = gowhy_data / "tiny"
    paths = {
        "obo": tiny / "go-basic.obo",
        "truth": tiny / "test_terms.tsv",
        "pred": tmp_path / "pred/naive.tsv",
        "ia": tiny / "IA.tsv",
    }
    assert_equals_cafaeval(paths, propagation=propagation, no_orphans=True)


@pytest.mark.slow
@pytest.mark.real_data
def test_the_medium_baseline_has_the_published_figures(gowhy_data: Path) -> None:
    medium = gowhy_data / "medium"
    keys = evaluate_files(
        gowhy_data / "baselines/medium/pred_mmseqs_knn.tsv.gz",
        medium / "test_terms.tsv.gz",
        gowhy_data / "go/go-basic.obo.gz",
        medium / "IA.tsv.gz",
    )
    # cafaeval 1.3.0, -prop fill -no_orphans, on the same files
    expected = {
        "fmax/MF": 0.45219628985234994,
        "fmax/BP": 0.24599060762206099,
        "fmax/CC": 0.4741205592723239,
        "fmax_w/MF": 0.4320233867084667,
        "fmax_w/BP": 0.21847210045497445,
        "fmax_w/CC": 0.39653780110272746,
        "smin/MF": 10.240456563913844,
        "smin/BP": 25.226067343996835,
        "smin/CC": 10.155625800675567,
    }
    assert {key: keys[key] for key in expected} == pytest.approx(expected, abs=1e-9)


def test_perfect_scores_are_perfect_and_absent_ones_are_nothing() -> None:
    ontology = make_ontology([[], [0], [0], [], [3]], [0, 0, 0, 1, 1])
    truth = csr(np.array([[0, 1, 0, 0, 0], [0, 0, 1, 0, 1]]), np.bool_)
    bits = np.ones(5)
    perfect = evaluate(csr(truth.toarray(), np.float64), truth, ontology, bits)
    assert (perfect["MF"].fmax, perfect["MF"].fmax_w, perfect["MF"].smin, perfect["MF"].n) == (1, 1, 0, 2)
    assert (perfect["BP"].fmax, perfect["BP"].coverage, perfect["BP"].n) == (1, 1, 1)
    assert perfect["CC"].fmax is None
    assert perfect["CC"].n == 0
    nothing = evaluate(csr(np.zeros((2, 5))), truth, ontology, bits)
    assert (nothing["MF"].fmax, nothing["MF"].fmax_w, nothing["MF"].coverage, nothing["MF"].smin) == (0, 0, 0, None)
    unweighted = metric_keys(evaluate(csr(truth.toarray()), truth, ontology, None))
    assert unweighted["fmax_w/MF"] is None
    assert unweighted["fmax/MF"] == 1
    check_keys(unweighted)


def test_wrong_matrices_are_refused() -> None:
    ontology = make_ontology([[], [0]], [0, 0])
    with pytest.raises(DataError, match="shape"):
        evaluate(csr(np.zeros((1, 2))), csr(np.zeros((2, 2)), np.bool_), ontology, None)
    with pytest.raises(DataError, match="not a number"):
        evaluate(csr(np.array([[np.nan, 0]])), csr(np.ones((1, 2)), np.bool_), ontology, None)


OBO = obo_text(make_ontology([[], [0], [0]], [0, 0, 0])).replace("name: term 2", "name: term 2\nalt_id: GO:0000022")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {
        "pred": tmp_path / "p.tsv",
        "truth": tmp_path / "t.tsv",
        "obo": tmp_path / "go.obo",
        "ia": tmp_path / "ia.tsv",
    }
    paths["obo"].write_text(OBO)
    paths["truth"].write_text("EntryID\tterm\taspect\nP1\tGO:0000001\tF\nP2\tGO:0000022\tF\nP9\tGO:7777777\tF\n")
    paths["pred"].write_text(
        "P1\tGO:0000001\t0.2\nP1\tGO:0000001\t0.8\nP2\tGO:0000022\t0.5\nP2\tText\t0.5\twhy\nQ\tGO:0000001\tx\n"
    )
    paths["ia"].write_text("GO:0000001\t2.5\nGO:0000022\t1\n")
    return paths


def test_files_are_read_with_headers_repeats_alternatives_and_text_rows(files: dict[str, Path], tmp_path: Path) -> None:
    ontology = parse_text(files["obo"], OBO)
    ids, truth = read_truth(files["truth"], ontology)
    assert ids == {"P1": 0, "P2": 1}
    assert truth.toarray().tolist() == [[False, True, False], [False, False, True]]
    assert read_predictions(files["pred"], ids, ontology).toarray().tolist() == [[0, 0.8, 0], [0, 0, 0.5]]
    assert read_information(files["ia"], ontology).tolist() == [0, 2.5, 0]
    keys = evaluate_files(**files)
    check_keys(keys)
    assert keys["fmax/MF"] == 1
    for name in ("pred", "truth", "ia"):
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(files[name].read_bytes()))
        files[name] = packed
    assert evaluate_files(**files) == keys
    assert set(keys) == {f"{n}/{a}" for n in ("fmax", "fmax_w", "smin", "aupr", "coverage", "ece") for a in ASPECTS}


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("pred", "P1\tGO:0000001\t0.2\nP1\tGO:0000001\n", 2, "expected protein, term and score"),
        ("pred", "P1\tGO:0000001\tx\n", 1, "not a score"),
        ("pred", "P1\tGO:0000001\t0.1\nP1\tGO:0000001\tnan\n", 2, "not in [0, 1]"),
        ("pred", "P1\tGO:0000001\t1.2\n", 1, "not in [0, 1]"),
        ("truth", "P1\tGO:0000001\nP1\n", 2, "expected protein and term"),
        ("ia", "GO:0000001\t1\nGO:0000002\tx\n", 2, "information accretion"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(
    files: dict[str, Path], name: str, text: str, line: int, words: str
) -> None:
    files[name].write_text(text)
    with pytest.raises(DataError) as caught:
        evaluate_files(**files)
    assert words in caught.value.what
    assert caught.value.where == f"{files[name]}:{line}"


def test_absent_binary_and_empty_files(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        evaluate_files(**{**files, "pred": tmp_path / "absent.tsv"})
    files["truth"].write_text("P1\tGO:7777777\n")
    with pytest.raises(DataError, match="no term of the ontology"):
        evaluate_files(**files)
    files["truth"].write_bytes(b"P1\t\xff\xfe\n")
    with pytest.raises(DataError, match="not readable"):
        evaluate_files(**files)


def test_a_run_s_own_priors_hold_the_accretion(files: dict[str, Path], tmp_path: Path) -> None:
    ontology, path = parse_text(files["obo"], OBO), tmp_path / "term_priors.parquet"
    terms = ["GO:0000022", "GO:0000001", "GO:7777777"]
    pd.DataFrame({"term": terms, "aspect": "MF", "ia": np.float32([np.nan, 2.5, 9])}).to_parquet(path)
    assert read_information(path, ontology).tolist() == [0, 2.5, 0]
    with pytest.raises(MissingInput):
        read_information(tmp_path / "absent.parquet", ontology)
    pd.DataFrame({"term": terms}).to_parquet(path)
    with pytest.raises(DataError, match="term and ia"):
        read_information(path, ontology)


def test_a_plain_table_is_read_at_once_as_line_by_line(tmp_path, monkeypatch):
    ontology = make_ontology([[], [0], [0, 1], [1]], [0, 0, 0, 0])
    rng = np.random.default_rng(3)
    ids = {f"P{number}": number for number in range(20)}
    rows = [
        f"P{rng.integers(0, 25)}\t{rng.choice([*ontology.terms, 'GO:9999999'])}\t{rng.choice(['0', '1', '0.1', '1e-3', repr(rng.random())])}\n"
        for _ in range(400)
    ]
    path = tmp_path / "pred.tsv"
    path.write_text("".join(rows))
    quick = evaluation_files.read_predictions(path, ids, ontology)
    assert evaluation_files._quick_predictions(path, ids, ontology.index) is not None
    monkeypatch.setattr(evaluation_files, "_quick_predictions", lambda *_: None)
    slow = evaluation_files.read_predictions(path, ids, ontology)
    assert quick.nnz == slow.nnz > 0
    assert np.array_equal(quick.toarray(), slow.toarray())


@pytest.mark.parametrize("text", ["P1 GO:0000001 0.5\n", "P1 \tGO:0000001\t0.5\n", "P1\t\tGO:0000001\t0.5\n"])
def test_an_unusual_table_is_left_to_the_reader_of_lines(tmp_path, text):
    ontology = make_ontology([[], [0], [0, 1], [1]], [0, 0, 0, 0])
    path = tmp_path / "pred.tsv"
    path.write_text(text)
    assert evaluation_files._quick_predictions(path, {"P1": 0}, ontology.index) is None
