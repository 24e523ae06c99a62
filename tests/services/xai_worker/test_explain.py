from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from services.xai_worker.explain import Outcome, explain
from services.xai_worker.folder import read_complete
from services.xai_worker.job import Job
from services.xai_worker.parity import BFLOAT16_TOLERANCE
from services.xai_worker.paths import PooledPath, residue_path
from services.xai_worker.request import ExplainRequest, request_of
from services.xai_worker.result import EXPLANATION
from services.xai_worker.stored import StoredRun
from shared.errors import MissingInput, ParityError, UsageError
from shared.logs import Logger
from tests.fakes.explained_run import SITE, ExplainedRun

EVIDENCE_KINDS = ("account", "counterfactual_modalities", "go_path", "knn_shares", "shapley")


def make(run: ExplainedRun, folder: Path, *, sites: Any = None, log: Logger | None = None, **asked: Any) -> Outcome:
    request = ExplainRequest(**{"proteins": ("T1", "P2"), "terms": tuple(run.terms[2:4]), **asked})
    job = Job(StoredRun(run.folder), run.bundle, request, log or Logger(None, quiet=True))
    return explain(job, run.provenance(), folder, sites=sites)


@pytest.fixture(scope="module")
def outcome(fake_run: ExplainedRun, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return make(fake_run, tmp_path_factory.mktemp("xai"))


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outcome.folder / "explanations.jsonl").read_text().splitlines()]


def test_every_pair_is_explained_by_every_model_and_method(outcome: Outcome, fake_run: ExplainedRun) -> None:
    found = sorted((x["protein"], x["term"], x["model"], x["method"]) for x in lines(outcome))
    residues = [(m, e) for m in ("cnn", "mlp/esm2", "mlp/t5") for e in ("integrated_gradients", "occlusion")]
    wanted = [
        (p, t, *how)
        for p in ("P2", "T1")
        for t in fake_run.terms[2:4]
        for how in [
            *residues,
            ("stacker", "stacker_parts"),
            ("final", "occlusion"),
            *(("final", e) for e in EVIDENCE_KINDS),
        ]
    ]
    assert found == sorted(wanted)
    assert outcome.result["counts"] == {"explanations": 52, "proteins": 2, "not_converged": 0}


def test_a_bfloat16_run_is_held_to_its_own_vectors_and_explained(tmp_path) -> None:
    run = ExplainedRun(tmp_path / "run", dtype="bfloat16")
    found = lines(make(run, tmp_path / "xai"))
    of_encoders = [line for line in found if line["model"].startswith("mlp/")]
    assert of_encoders
    for line in of_encoders:
        assert line["gates"]["embedding"]["relative_error"] <= 1e-3
    # The float32 function is near, but it is not what the run stored.
    path = residue_path(
        run.bundle, StoredRun(run.folder), "mlp/esm2", StoredRun(run.folder).places["T1"], run.terms[:2]
    )
    assert isinstance(path, PooledPath)
    away = np.linalg.norm(path.explained() - path.pooled()) / np.linalg.norm(path.pooled())
    assert 1e-3 < away < BFLOAT16_TOLERANCE


def test_bfloat16_that_is_too_far_from_float32_is_not_explained(tmp_path, monkeypatch) -> None:
    run = ExplainedRun(tmp_path / "run", dtype="bfloat16")
    monkeypatch.setattr("services.xai_worker.job.BFLOAT16_TOLERANCE", 1e-4)
    with pytest.raises(ParityError, match="in float32"):
        make(run, tmp_path / "xai")


def test_lines_follow_the_schema(outcome: Outcome) -> None:
    validator = jsonschema.Draft202012Validator(EXPLANATION.json_schema())
    for line in lines(outcome):
        validator.validate(line)
        EXPLANATION.validate_python(line)


def test_a_train_protein_is_explained_by_the_fold_that_never_saw_it(outcome: Outcome) -> None:
    assert {(x["protein"], tuple(x["score"]["folds"])) for x in lines(outcome)} == {("T1", (0, 1)), ("P2", (0,))}


def test_the_gates_hold_and_are_written(outcome: Outcome) -> None:
    for line in lines(outcome):
        parity, completeness = line["gates"]["parity"], line["gates"]["completeness"]
        assert parity["difference"] <= parity["tolerance"]
        assert (line["gates"]["embedding"] is not None) == line["model"].startswith("mlp/")
        assert (completeness is not None) == (line["method"] in ("integrated_gradients", "stacker_parts", "account"))
        if completeness is not None:
            assert completeness["converged"]
            parts = line["values"] if line["kind"] == "residues" else [part["value"] for part in line["parts"]]
            assert sum(parts) == pytest.approx(line["score"]["logit"] - line["score"]["reference"], rel=0.011, abs=2e-5)


def test_the_parts_name_channels_and_places_in_the_graph(outcome: Outcome, fake_run: ExplainedRun) -> None:
    parts = next(x for x in lines(outcome) if x["model"] == "stacker")["parts"]
    assert [part["channel"] for part in parts[::4]] == list(fake_run.bundle.stacker.layout.channels.names)
    assert [part["relation"] for part in parts[:4]] == ["self", "ancestors", "descendants", "other"]
    for line in lines(outcome):
        if line["model"] == "stacker":  # whether a term was fitted is no fact of a protein
            assert [part["value"] for part in line["parts"] if part["channel"] == "missing"] == [0, 0, 0, 0]


def test_the_parquet_table_says_what_the_lines_say(outcome: Outcome) -> None:
    table = pd.read_parquet(outcome.folder / "attributions.parquet")
    residues = [line for line in lines(outcome) if line["kind"] == "residues"]
    assert len(table) == sum(len(line["sequence"]) for line in residues)
    for line in residues:
        key = ["protein", "term", "model", "method"]
        rows = table[(table[key] == [line[name] for name in key]).all(axis=1)]
        assert rows["value"].tolist() == line["values"]
        assert "".join(rows["residue"]) == line["sequence"]
        assert rows["position"].tolist() == list(range(1, len(rows) + 1))
        assert sorted(rows["rank"]) == list(range(1, len(rows) + 1))
        best = rows.sort_values("rank").head(len(line["top"]))
        assert best["position"].tolist() == [item["position"] for item in line["top"]]


def test_the_cnns_occlusion_finds_what_the_cnn_was_built_to_find(outcome: Outcome) -> None:
    found = [x for x in lines(outcome) if x["model"] == "cnn" and x["method"] == "occlusion"]
    for line in found:
        start = line["sequence"].index(SITE)
        assert line["top"][0]["position"] - 1 in range(start, start + 3)


def test_result_json_names_every_file_with_its_hash(outcome: Outcome) -> None:
    files = {path.relative_to(outcome.folder).as_posix() for path in outcome.folder.rglob("*") if path.is_file()}
    assert set(outcome.result["files"]) == files - {"result.json"}
    assert {"explanations.jsonl", "attributions.parquet", "index.html", "reports/T1.html", "reports/P2.html"} <= files
    assert read_complete(outcome.folder) == outcome.result


def test_equal_requests_give_equal_bytes(outcome: Outcome, fake_run: ExplainedRun, tmp_path: Path) -> None:
    again = make(fake_run, tmp_path)
    assert not again.reused
    assert again.result["files"] == outcome.result["files"]
    assert (again.folder / "result.json").read_bytes() == (outcome.folder / "result.json").read_bytes()


def test_a_complete_result_is_given_back_untouched_and_a_damaged_one_is_made_again(
    fake_run: ExplainedRun, tmp_path: Path
) -> None:
    asked = {"proteins": ("T2",), "models": ("cnn",), "methods": ("occlusion",)}
    first = make(fake_run, tmp_path, **asked)
    before = (first.folder / "index.html").stat()
    assert make(fake_run, tmp_path, **asked).reused
    assert (first.folder / "index.html").stat().st_mtime_ns == before.st_mtime_ns
    (first.folder / "index.html").write_text("damaged")
    repaired = make(fake_run, tmp_path, **asked)
    assert not repaired.reused
    assert repaired.result == first.result


def test_defaults_are_the_best_test_proteins_and_unrelated_specific_terms(
    fake_run: ExplainedRun, tmp_path: Path
) -> None:
    outcome = make(fake_run, tmp_path, proteins=(), terms=(), models=("stacker",), limit=2)
    assert outcome.result["counts"]["proteins"] == 2
    ontology = fake_run.ontology
    for protein in {line["protein"] for line in lines(outcome)}:
        terms = [line["term"] for line in lines(outcome) if line["protein"] == protein]
        assert 1 <= len(terms) <= 3
        assert not set(terms) & set(ontology.roots.values())
        for one in terms:
            above = {ontology.terms[i] for i in ontology.ancestors(ontology.index[one]).tolist()} - {one}
            assert not above & set(terms)


def test_another_model_is_refused_with_both_numbers_and_nothing_is_left(tmp_path: Path) -> None:
    run = ExplainedRun(tmp_path / "run", residues=8)
    path = run.folder / "features/test_pred_cnn.npy"
    scores = np.load(path)
    stored = scores[0, 2]
    scores[0, 2] += np.float16(0.5)
    np.save(path, scores)
    with pytest.raises(ParityError, match="explains a different model") as caught:
        make(run, tmp_path / "xai", proteins=("T1",))
    message = str(caught.value)
    assert f"{float(scores[0, 2]):.6g}" in message
    assert f"{float(stored):.3g}"[:4] in message
    assert "cnn, T1" in message
    assert caught.value.exit_code == 80
    assert list((tmp_path / "xai").iterdir()) == []


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    run = ExplainedRun(tmp_path / "run", residues=8)
    path = run.folder / "features/test_embeds_t5.npy"
    vectors = np.load(path)
    # Standardised away by the model, so that only the embedding itself tells.
    vectors[0] *= np.float16(1.01)
    np.save(path, vectors)
    with pytest.raises(ParityError, match="different encoder"):
        make(run, tmp_path / "xai", proteins=("T1",), models=("mlp/t5",))


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"proteins": ("T11",)}, MissingInput, "Similar ids: T1"),
        ({"terms": ("GO:0000777",)}, MissingInput, "is not in the ontology"),
        ({"terms": ("GO:0000007",)}, MissingInput, "not among the model's 7 terms.*GO:0000005 term 5"),
        ({"models": ("gcn",)}, UsageError, "cnn, mlp/esm2, mlp/t5, stacker, final"),
        ({"models": ("stacker",), "methods": ("occlusion",)}, UsageError, "no method"),
    ],
)
def test_what_cannot_be_explained_is_refused_by_name(
    fake_run: ExplainedRun, tmp_path: Path, asked: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(fake_run, tmp_path, **asked)
    assert list(tmp_path.iterdir()) == []


def test_sites_decide_what_is_explained_and_how_well(fake_run: ExplainedRun, tmp_path: Path) -> None:
    term, sites = fake_run.terms[3], {}
    for protein, row in (("T1", 0), ("T3", 2), ("P0", 0)):
        sites[protein, term] = frozenset({5 + row, 6 + row, 7 + row})
    outcome = make(fake_run, tmp_path, proteins=(), terms=(), models=("cnn",), sites=sites)
    measured = json.loads((outcome.folder / "localisation.json").read_bytes())
    # P0 was fitted on: it is explained when it is named, but measures nothing.
    assert [(r["model"], r["method"], r["n"]) for r in measured["rankings"]] == [
        ("cnn", "integrated_gradients", 2),
        ("cnn", "occlusion", 2),
    ]
    occlusion = measured["rankings"][1]
    assert occlusion["map"] > 0.7 > 2 * occlusion["random"]
    assert occlusion["per_term"][term]["n"] == 2
    assert f"MAP {occlusion['map']:.3f}" in (outcome.localisation or "")
    assert (
        make(fake_run, tmp_path, proteins=(), terms=(), models=("cnn",), sites=sites).localisation
        == outcome.localisation
    )


def test_metrics_go_to_the_log_under_xai(fake_run: ExplainedRun, tmp_path: Path) -> None:
    log = Logger(tmp_path / "logs", quiet=True)
    make(fake_run, tmp_path / "xai", log=log, proteins=("T1",), models=("stacker",))
    steps = [json.loads(line) for line in (tmp_path / "logs/steps.jsonl").read_text().splitlines()]
    assert {"xai/completeness_error", "xai/parity_difference"} <= set(steps[0])
    assert {step["term"] for step in steps} == set(fake_run.terms[2:4])


def test_the_job_id_depends_on_what_is_asked_and_of_which_model() -> None:
    base = ExplainRequest(proteins=("A", "B"), terms=("GO:1",))
    assert base.job_id("m", None) == ExplainRequest(proteins=("B", "A", "A"), terms=("GO:1",)).job_id("m", None)
    others = [base.job_id("n", None), base.job_id("m", "s"), ExplainRequest(proteins=("A",)).job_id("m", None)]
    assert len({base.job_id("m", None), *others}) == 4
    assert base.job_id("m", None).startswith("local-")


@pytest.mark.parametrize(
    "values", [{"windows": (2,)}, {"methods": ("guess",)}, {"limit": 0}, {"tolerance": 0.0}, {"proteins": ("",)}]
)
def test_impossible_requests_are_usage_errors(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        request_of(**values)


def test_every_residue_explanation_carries_its_gates(outcome: Outcome) -> None:
    for line in lines(outcome):
        gates = line["gates"]
        if line["kind"] != "residues":
            assert gates["faithfulness"] is None
            continue
        assert gates["complexity"]["residues"] == len(line["sequence"])
        assert gates["sites"]["status"] == "unknown"
        assert (gates["stability"] is not None) == (line["method"] == "occlusion")
        assert gates["faithfulness"]["orders"] == 100
        assert gates["faithfulness"]["passed"] == (
            gates["faithfulness"]["p"] < 0.01 and gates["faithfulness"]["low"] > 0
        )
        assert gates["specificity"] is None or gates["specificity"]["term"] != line["term"]


def test_the_full_tier_scans_mutations_and_keeps_standard_errors(fake_run: ExplainedRun, tmp_path: Path) -> None:
    methods = ("virtual_mutations", "exact_mutations", "expected_gradients", "pooled_exact", "counterfactual_residues")
    outcome = make(
        fake_run, tmp_path, proteins=("T1",), models=("cnn", "mlp/esm2", "final"), methods=methods, tier="fast"
    )
    found = lines(outcome)
    kinds = {(x["model"], x["method"]) for x in found}
    assert ("mlp/esm2", "pooled_exact") in kinds
    assert ("cnn", "pooled_exact") not in kinds  # the CNN pools by the maximum, too
    assert ("final", "exact_mutations") in kinds
    scans = pd.read_parquet(outcome.folder / "mutations.parquet")
    for line in (x for x in found if x["kind"] == "mutations"):
        rows = scans[(scans[["term", "model", "method"]] == [line["term"], line["model"], line["method"]]).all(axis=1)]
        assert len(rows) == 19 * len(line["positions"])
        assert not (rows["residue"] == rows["substitution"]).any()
        lowest = rows.sort_values("value").iloc[0]
        if line["lowering"]:
            assert line["lowering"][0]["value"] == lowest["value"] < 0
            assert line["lowering"][0]["position"] == lowest["position"]
        exact = line["method"] == "exact_mutations"
        assert len(line["positions"]) == (10 if exact else len(line["sequence"]))
        assert (line["agreement"] is not None) == exact
    table = pd.read_parquet(outcome.folder / "attributions.parquet")
    sampled = table["method"] == "expected_gradients"
    assert table.loc[sampled, "standard_error"].notna().all()
    assert table.loc[~sampled, "standard_error"].isna().all()
    assert found[0]["gates"]["faithfulness"] is None  # the fast tier leaves it out
