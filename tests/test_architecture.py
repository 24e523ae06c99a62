"""What the repository promises about itself."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.train.pipeline import PIPELINE
from shared.artefacts import CATALOGUE, artefact
from shared.config import Config
from tests.guard import DECLARED_EXCEPTIONS, FORBIDDEN_SUFFIXES, MAX_BYTES, problems

REPOSITORY = Path(__file__).resolve().parents[1]

STAGES = {
    "stage_01_parsed": [
        "parsed/train_seq.feather",
        "parsed/test_seq.feather",
        "parsed/train_terms.parquet",
        "parsed/train_taxa.feather",
        "parsed/test_taxa.feather",
        "parsed/term_priors.parquet",
    ],
    "stage_02_external_text": ["external/entryid_text.tsv"],
    "stage_03_tfidf_text": [
        "features/text_vectorizer.joblib",
        "features/train_embeds_text.npy",
        "features/test_embeds_text.npy",
    ],
    "stage_04_external_goa_priors": ["external/prop_train_no_kaggle.tsv.gz", "external/prop_test_no_kaggle.tsv.gz"],
    "stage_05_embeddings_t5": ["features/train_embeds_t5.npy", "features/test_embeds_t5.npy"],
    "stage_06_embeddings_esm2": ["features/train_embeds_esm2.npy", "features/test_embeds_esm2.npy"],
    "stage_07_level1_preds": [],
    "stage_08_stacker": ["features/top_terms_1500.json", "features/test_pred_gcn.npy"],
    "stage_09_submission": ["submission.tsv"],
}


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [Path(name.decode()) for name in done.stdout.split(b"\0") if name and (REPOSITORY / name.decode()).is_file()]


def test_stage_ids_and_their_artefacts_are_the_contract() -> None:
    assert [stage.id for stage in PIPELINE] == list(STAGES)
    for stage in PIPELINE:
        missing = set(STAGES[stage.id]) - set(stage.outputs(Config()))
        assert not missing, f"{stage.id} does not write {missing}"


def test_every_artefact_is_in_the_catalogue_and_made_before_it_is_read() -> None:
    made: set[str] = set()
    for stage in PIPELINE:
        for path in stage.inputs(Config()):
            assert path in made, f"{stage.id} reads {path} before a stage makes it"
        for path in stage.outputs(Config()):
            assert artefact(path)
            assert path not in made, f"{path} is made twice"
            made.add(path)


def test_level1_models_write_their_scores() -> None:
    outputs = set(PIPELINE[6].outputs(Config()))
    for model in Config().level1.models:
        assert {f"features/oof_{model}.npy", f"features/test_pred_{model}.npy"} <= outputs


def test_catalogue_patterns_are_unique() -> None:
    patterns = [entry.pattern for entry in CATALOGUE]
    assert len(set(patterns)) == len(patterns)


def test_nothing_forbidden_is_tracked(monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert problems(tracked()) == []


def test_the_guard_refuses(tmp_path) -> None:
    refused = ["w.pt", "w.pth", "w.bin", "w.safetensors", "a.npy", "a.npz", "m.pkl", "m.pkl.gz", "m.h5"]
    for name in [*refused, "ok.txt"]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "big.txt").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "run.log").write_bytes(b"x" * (10 * 1000**2 + 1))
    names = [*refused, "big.txt", "run.log", "ok.txt"]
    found = [line.partition(":")[0].rpartition("/")[2] for line in problems(tmp_path / name for name in names)]
    assert found == [*refused, "big.txt", "run.log"]


def test_a_declared_exception_is_one_content_and_no_other(tmp_path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"x")
    declared = {path.as_posix(): hashlib.sha256(b"x").hexdigest()}
    assert problems([path], declared) == []
    path.write_bytes(b"y")
    assert "declared with sha256" in problems([path], declared)[0]
    stale = [name for name in DECLARED_EXCEPTIONS if not (REPOSITORY / name).is_file()]
    assert not stale, "declared, but not there"


def test_the_guard_stops_a_commit(tmp_path) -> None:
    hook = next(
        h
        for h in yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
        if h["id"] == "large-files"
    )
    command = [sys.executable, *hook["entry"].split()[1:]]
    (tmp_path / "weights.pth").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for name, code in (("weights.pth", 1), ("notes.txt", 0)):
        done = subprocess.run(
            [*command, name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, "weights.pth" in done.stdout) == (code, code == 1)


def test_git_ignores_what_the_guard_refuses() -> None:
    names = [f"anywhere/file{suffix}" for suffix in sorted(FORBIDDEN_SUFFIXES)] + ["x.pkl.gz", "run.log", "out/x.json"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == names


def test_the_lfs_rule_is_off_and_works_when_its_mark_is_taken_away(tmp_path) -> None:
    text = (REPOSITORY / ".gitattributes").read_text()
    for rules, expected in ((text, "unspecified"), (text.replace("#critical", "critical"), "lfs")):
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        (tmp_path / ".gitattributes").write_text(rules)
        command = ["git", "check-attr", "filter", "--", "critical/model.safetensors"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == expected


def test_no_unpickling_in_product_code() -> None:
    pattern = re.compile(r"\b(pickle\.loads?|joblib\.load|allow_pickle=True|torch\.load\((?!.*weights_only=True))")
    found = [
        f"{path}:{number}"
        for path in tracked()
        if path.suffix == ".py" and path.parts[0] in ("shared", "services")
        for number, line in enumerate((REPOSITORY / path).read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_make_help_lists_every_verb() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([a-z_-]+):.*## ", text, re.MULTILINE))
    assert phony == described


def test_architecture_page_is_short_and_names_what_exists() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 120
    for stage in PIPELINE:
        assert stage.id in text
    for path in re.findall(r"`((?:shared|services|schema|tests|configs|envs)/[A-Za-z0-9_/.]+)`", text):
        assert (REPOSITORY / path).exists(), f"ARCHITECTURE.md names {path}"
