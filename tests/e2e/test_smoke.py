"""About 100 generated proteins through all nine stages and one explanation; every number inside its golden range."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from pipeline_runs import REPOSITORY, output_digests, run, train_command
from pyarrow import parquet

from shared.digests import sha256_file
from shared.manifest import load_manifest

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(600)]
GOLDEN = REPOSITORY / "tests/golden/smoke.json"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("smoke") / "out"
    done = run(train_command(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def explain(out: Path, *arguments: str) -> Path:
    """Explain the run; the folder of the result."""
    done = run([sys.executable, "-m", "services.xai_worker", "explain", "--quiet", "--from-manifest", str(out / "smoke/manifest.json"), *arguments])
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(done.stdout.splitlines()[0])


@pytest.fixture(scope="module")
def explained(out) -> Path:
    """The CNN's explanations of every planted motif outside the fit."""
    sites = next((out / "cache").rglob("truth_sites.tsv"))
    return explain(out, "--sites", str(sites), "--model", "cnn")


def figures(out: Path, explained: Path) -> dict[str, float]:
    """The numbers that are held to golden ranges."""
    metrics = json.loads((out / "smoke/metrics.json").read_bytes())
    localisation = json.loads((explained / "localisation.json").read_bytes())
    found = {
        f"test/{key}": metrics["test"]["gcn"][key]
        for key in ("fmax/MF", "fmax/BP", "fmax/CC", "fmax_w/MF", "fmax_w/BP", "fmax_w/CC")
    }
    return {**found, "explained/map_over_prevalence": localisation["map"] / localisation["prevalence"]}


def test_every_number_is_in_its_golden_range(out, explained) -> None:
    golden = json.loads(GOLDEN.read_bytes())
    found = figures(out, explained)
    assert set(found) == set(golden)
    outside = {
        name: (value, golden[name]) for name, value in found.items() if not golden[name][0] <= value <= golden[name][1]
    }
    assert not outside


def test_the_manifest_is_complete_and_every_file_is_what_it_says(out) -> None:
    manifest = load_manifest(out / "smoke/manifest.json")
    assert [stage.status for stage in manifest.stages] == ["done"] * 9
    assert all("random-init" in encoder.weights for encoder in manifest.encoder)
    assert (out / "latest").resolve() == (out / "smoke").resolve()
    assert manifest.checks.train_rows
    assert len(manifest.checks.compared) > 10


def test_a_second_run_skips_everything_and_changes_nothing(out) -> None:
    before = sha256_file(out / "smoke/manifest.json")
    done = run(train_command(out, "--json", "--quiet"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert {step["action"] for step in json.loads(done.stdout)["steps"]} == {"skip"}
    assert sha256_file(out / "smoke/manifest.json") == before


def test_a_fresh_folder_restores_every_stage_from_the_store(out, tmp_path) -> None:
    done = run(train_command(tmp_path / "out", "--json", "--quiet", "--set", f"store.url=local://{out / 'store'}"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert {step["action"] for step in json.loads(done.stdout)["steps"]} == {"restore"}
    assert output_digests(tmp_path / "out/smoke/manifest.json") == output_digests(out / "smoke/manifest.json")


def test_predict_gives_the_scores_of_the_run(out, tmp_path) -> None:
    """The bundle alone scores the test proteins as the pipeline did, where no GOA annotation was used."""
    test = pd.read_feather(out / "smoke/parsed/test_seq.feather")
    taxa = pd.read_feather(out / "smoke/parsed/test_taxa.feather")
    text = pd.read_csv(out / "smoke/external/entryid_text.tsv", sep="\t")
    text[text["EntryID"].isin(test["id"])].to_csv(tmp_path / "text.tsv", sep="\t", index=False)
    taxa.to_csv(tmp_path / "taxa.tsv", sep="\t", index=False, header=False)
    (tmp_path / "test.fasta").write_text(
        "".join(f">{i}\n{s}\n" for i, s in zip(test["id"], test["sequence"], strict=True))
    )
    command = [
        sys.executable,
        "-m",
        "services.train",
        "predict",
        "--model",
        str(out / "smoke/manifest.json"),
        "--fasta",
        str(tmp_path / "test.fasta"),
        "--out",
        str(tmp_path / "p.tsv"),
        "--text",
        str(tmp_path / "text.tsv"),
        "--taxonomy",
        str(tmp_path / "taxa.tsv"),
    ]
    done = run(command)
    assert done.returncode == 0, done.stderr[-3000:]
    columns = ["protein", "term", "score"]
    predicted = pd.read_csv(tmp_path / "p.tsv", sep="\t", names=columns).set_index(columns[:2])["score"]
    submitted = pd.read_csv(out / "smoke/submission.tsv", sep="\t", names=columns).set_index(columns[:2])["score"]
    annotated = set(pd.read_csv(out / "smoke/external/prop_test_no_kaggle.tsv.gz", sep="\t")["EntryID"])
    plain = [i for i in test["id"] if i not in annotated]
    assert len(plain) >= 5
    for protein in plain:
        pd.testing.assert_series_equal(
            predicted.loc[protein].sort_index(), submitted.loc[protein].sort_index(), rtol=0.02, atol=2e-3
        )


def test_explanations_are_whole(out) -> None:
    """One protein, every model and method."""
    explained = explain(out, "--limit", "1")
    result = json.loads((explained / "result.json").read_bytes())
    for path, digest in result["files"].items():
        assert sha256_file(explained / path) == (digest["sha256"] if isinstance(digest, dict) else digest)
    lines = [json.loads(line) for line in (explained / "explanations.jsonl").read_text().splitlines()]
    assert len(lines) >= 10
    table = parquet.read_table(explained / "attributions.parquet")
    assert table.num_rows > 100
    assert list((explained / "reports").glob("*.html"))


def test_evaluate_agrees_with_the_run(out) -> None:
    done = run(
        [
            sys.executable,
            "-m",
            "services.train",
            "evaluate",
            "--from-manifest",
            str(out / "smoke/manifest.json"),
            "--json",
        ]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    again = json.loads(done.stdout)
    metrics = json.loads((out / "smoke/metrics.json").read_bytes())["test"]["gcn"]
    for key in ("fmax/MF", "fmax/BP", "fmax/CC"):
        assert again[key] == pytest.approx(metrics[key], abs=5e-3)
