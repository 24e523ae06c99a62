"""Stage 9 from files to files, on a small run whose stacker is planted to be the best model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from services.train.evaluation import evaluate_files
from services.train.stage import Stage, always
from services.train.stages import stage_09_submission
from services.train.stages.stage_09_submission import STAGE
from services.train.submission import validate_submission
from shared.config import Config, SubmissionConfig
from shared.errors import IntegrityError
from shared.logs import check_keys
from shared.ontology import ASPECTS, Ontology, information_accretion, propagate_labels, term_priors
from tests.fakes.contexts import output, output_bytes, run_stage
from tests.fakes.ontologies import csr, make_ontology, obo_text

TRAIN, TEST, LEVEL1 = 60, 12, ("homology", "knn")
CONFIG = Config.model_validate({"level1": {"models": list(LEVEL1)}})


def planted_ontology() -> Ontology:
    """Three aspects of ten terms, a chain with side branches each."""
    parents: list[list[int]] = [[], [], []]
    parents += [[i - 3] if i % 2 else [i % 3, i - 3] for i in range(3, 30)]
    return make_ontology([sorted(set(p)) for p in parents], [i % 3 for i in range(30)])


def label_table(labels: np.ndarray, ids: list[str], ontology: Ontology) -> pd.DataFrame:
    rows, terms = np.nonzero(labels)
    return pd.DataFrame(
        {
            "id": [ids[r] for r in rows],
            "term": [ontology.terms[t] for t in terms],
            "aspect": [ASPECTS[ontology.aspects[t]] for t in terms],
            "stated": True,
        }
    )


def planted_inputs(seed: int = 3) -> dict[str, Any]:
    """Every input artefact of the stage; logits follow the labels with noise, least for the stacker."""
    generator = np.random.default_rng(seed)
    ontology = planted_ontology()
    terms = list(ontology.terms)
    ids = {"train": [f"P{i:03d}" for i in range(TRAIN)], "test": [f"T{i:03d}" for i in range(TEST)]}
    labels = {
        part: propagate_labels(csr(generator.random((len(of), 30)) < 0.08, np.bool_), ontology).toarray()
        for part, of in ids.items()
    }
    fold = np.where(np.arange(TRAIN) < 45, np.arange(TRAIN) % 5, -1).astype(np.int8)
    known = csr(labels["train"][fold >= 0], np.bool_)
    chosen, level1 = terms[:20][::-1], sorted(terms[:24])
    inputs: dict[str, Any] = {
        "parsed/ontology.json": ontology.to_json(),
        "parsed/term_priors.parquet": pd.DataFrame(
            {
                "term": terms,
                "aspect": [ASPECTS[a] for a in ontology.aspects],
                "prior": term_priors(known, ontology)[0],
                "ia": information_accretion(known, ontology),
            }
        ),
        "parsed/splits.feather": pd.DataFrame(
            {"id": ids["train"], "role": np.where(fold < 0, "val", "fit"), "fold": fold, "cluster": np.arange(TRAIN)}
        ),
        "parsed/train_terms.parquet": label_table(labels["train"], ids["train"], ontology),
        "parsed/known_terms.parquet": label_table(labels["test"][8:], ids["test"][8:], ontology),
        "parsed/test_truth.parquet": label_table(labels["test"][:8], ids["test"], ontology),
        "features/top_terms_1500.json": {"terms": chosen, "aspects": [ASPECTS[int(t[3:]) % 3] for t in chosen]},
        "features/level1_terms.json": {"terms": level1, "fold_terms": {}},
        "models/stacker.json": {
            "calibration": {"MF": {"a": 0.8, "b": 0.8, "c": -0.1}, "BP": {"a": 1.0, "b": 1.0, "c": 0.0}}
        },
    }
    for part, of in ids.items():
        inputs[f"parsed/{part}_seq.feather"] = pd.DataFrame({"id": of, "sequence": ["ACDE"] * len(of)})
        inputs[f"parsed/{part}_taxa.feather"] = pd.DataFrame({"id": of, "taxon_id": np.arange(len(of)) % 2 * 9606})
        pairs = generator.integers(0, [len(of), TRAIN], (150, 2))
        inputs[f"parsed/homology_{part}.feather"] = pd.DataFrame(
            {"query": pairs[:, 0], "target": pairs[:, 1], "bits": generator.uniform(30, 300, 150).astype(np.float32)}
        ).assign(fident=np.float32(0.5), qcov=np.float32(1), tcov=np.float32(1))
        for name, columns, noise in (("gcn", chosen, 1.0), ("homology", level1, 4.0), ("knn", level1, 6.0)):
            wanted = labels[part][:, [ontology.index[t] for t in columns]]
            logits = np.where(wanted, 2.5, -2.5) + generator.normal(0, noise, wanted.shape)
            prefix = "oof" if part == "train" else "test_pred"
            inputs[f"features/{prefix}_{name}.npy"] = np.clip(logits, -9, 9).astype(np.float16)
    return inputs


def stage() -> Stage:
    """The stage without the bundle, which has tests of its own."""
    return replace(STAGE, outputs=always("submission.tsv", "metrics.json", *stage_09_submission.FIGURES.values()))


@pytest.fixture(scope="module", autouse=True)
def _no_bundle():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_09_submission, "write_bundle", lambda _ctx: None)
        yield


@pytest.fixture(scope="module")
def finished(_no_bundle, tmp_path_factory: pytest.TempPathFactory):
    return run_stage(stage(), tmp_path_factory.mktemp("stage9"), planted_inputs(), CONFIG)


def test_what_is_read_is_declared(finished) -> None:
    assert set(planted_inputs()) <= set(STAGE.inputs(CONFIG))
    assert finished.output_paths <= set(STAGE.outputs(CONFIG))


def test_the_submission_keeps_every_rule(finished) -> None:
    ids = [f"T{i:03d}" for i in range(TEST)]
    counts = validate_submission(finished.staging / "submission.tsv", ids, planted_ontology())
    assert output(finished, "metrics.json")["counts"]["submission"] == counts
    assert counts["proteins"] == TEST


def test_rare_terms_come_from_homologues_and_only_where_asked(finished, tmp_path: Path) -> None:
    def terms(path: Path) -> set[str]:
        return {line.split("\t")[1] for line in path.read_text().splitlines()}

    rare = set(planted_ontology().terms[20:])
    assert terms(finished.staging / "submission.tsv") & rare
    none = Config.model_validate({"level1": {"models": list(LEVEL1)}, "submission": {"rare_terms": "none"}})
    without = run_stage(stage(), tmp_path, planted_inputs(), none)
    assert not terms(without.staging / "submission.tsv") & rare


def test_known_terms_are_merged_where_asked_and_only_there(finished, tmp_path: Path) -> None:
    def scores(path: Path) -> dict[tuple[str, str], float]:
        return {(p, t): float(s) for p, t, s in (line.split("\t") for line in path.read_text().splitlines())}

    config = CONFIG.model_copy(update={"submission": SubmissionConfig(known_terms="merge")})
    merged = scores(run_stage(stage(), tmp_path, planted_inputs(), config).staging / "submission.tsv")
    left = scores(finished.staging / "submission.tsv")
    known = planted_inputs()["parsed/known_terms.parquet"]
    pairs = set(zip(known["id"], known["term"], strict=True))
    assert pairs <= set(merged)
    assert {merged[pair] for pair in pairs} == {1.0}
    assert {pair: score for pair, score in merged.items() if pair not in pairs} == {
        pair: score for pair, score in left.items() if pair not in pairs
    }
    assert any(left.get(pair) != 1.0 for pair in pairs)


def test_metrics_compare_all_models_by_the_agreed_keys(finished) -> None:
    metrics = output(finished, "metrics.json")
    assert metrics["counts"]["val"]["proteins"] == 15
    assert metrics["counts"]["test"]["proteins"] == 8
    for part in ("val", "test"):
        assert set(metrics[part]) == {"gcn", *LEVEL1, "naive"}
        for keys in metrics[part].values():
            check_keys(keys)
        assert all(metrics[part]["gcn"][f"fmax_w/{a}"] > metrics[part]["knn"][f"fmax_w/{a}"] for a in ASPECTS)
    assert {"mae/val", "pearson/per_head/BP", "mae/per_group/9606"} <= set(metrics["val"]["gcn"])
    assert (finished.staging / "figures/precision_recall_MF.png").read_bytes().startswith(b"\x89PNG")


def test_the_test_figures_are_those_of_the_submission_file(finished, tmp_path: Path) -> None:
    ontology = planted_ontology()
    (tmp_path / "go.obo").write_text(obo_text(ontology))
    truth = planted_inputs()["parsed/test_truth.parquet"]
    truth[["id", "term"]].to_csv(tmp_path / "truth.tsv", sep="\t", header=False, index=False)
    bits = planted_inputs()["parsed/term_priors.parquet"]
    bits[["term", "ia"]].to_csv(tmp_path / "ia.tsv", sep="\t", header=False, index=False)
    keys = evaluate_files(
        finished.staging / "submission.tsv", tmp_path / "truth.tsv", tmp_path / "go.obo", tmp_path / "ia.tsv"
    )
    recorded = output(finished, "metrics.json")["test"]["gcn"]
    assert {key: recorded[key] for key in keys} == pytest.approx(keys, abs=1e-6)


def test_validation_labels_have_no_vote(tmp_path: Path) -> None:
    inputs = planted_inputs()
    first = run_stage(stage(), tmp_path / "a", inputs, CONFIG)
    table = inputs["parsed/train_terms.parquet"]
    val = set(inputs["parsed/splits.feather"].query("role == 'val'")["id"])
    inputs["parsed/train_terms.parquet"] = table[~table["id"].isin(val)]
    second = run_stage(stage(), tmp_path / "b", inputs, CONFIG)
    assert (first.staging / "submission.tsv").read_bytes() == (second.staging / "submission.tsv").read_bytes()


def test_equal_inputs_give_equal_bytes(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_09_submission, "BLOCK_ROWS", 5)
    assert output_bytes(run_stage(stage(), tmp_path, planted_inputs(), CONFIG)) == output_bytes(finished)


def test_without_test_truth_and_homologues_the_submission_is_still_whole(tmp_path: Path) -> None:
    inputs = planted_inputs()
    for path in ("parsed/test_truth.parquet", "parsed/homology_train.feather", "parsed/homology_test.feather"):
        inputs[path] = inputs[path].iloc[:0]
    ctx = run_stage(stage(), tmp_path, inputs, CONFIG)
    metrics = output(ctx, "metrics.json")
    assert metrics["test"] == {}
    assert metrics["counts"]["submission"]["proteins"] == TEST


def test_matrices_of_another_run_are_refused(tmp_path: Path) -> None:
    inputs = planted_inputs()
    inputs["features/test_pred_gcn.npy"] = inputs["features/test_pred_gcn.npy"][:, :-1]
    with pytest.raises(IntegrityError, match="does not fit 12 proteins and 20 terms"):
        run_stage(stage(), tmp_path, inputs, CONFIG)
