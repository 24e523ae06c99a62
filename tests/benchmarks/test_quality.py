"""`make quality` runs what it says: the dataset, a preset, and the same without each modality that the run has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import quality
from benchmarks.quality import ABLATIONS

MODELS = ["homology", "taxon", "knn", "logreg"]


@pytest.mark.parametrize(
    ("name", "left"),
    [("homology", ["taxon", "knn", "logreg"]), ("taxon", ["homology", "knn", "logreg"]), ("esm2", None), ("t5", None)],
)
def test_an_ablation_drops_the_models_that_read_nothing_else(name: str, left: list[str] | None) -> None:
    keys = dict(key.split("=", 1) for key in ABLATIONS[name].sets(MODELS))
    assert (json.loads(keys["level1.models"]) if "level1.models" in keys else None) == left
    assert left is not None or keys == {f"embed.{name}": "null"}


def test_a_run_without_the_modality_has_no_ablation_of_it() -> None:
    assert ABLATIONS["sequence"].sets(MODELS) == []


def test_every_run_is_made_under_the_preset_and_shown_on_the_page(tmp_path: Path, monkeypatch) -> None:
    called: list[Sequence[str]] = []

    def call(module: Sequence[str]) -> None:
        called.append(module)
        (identity,) = [word.removeprefix("run_id=") for word in module if word.startswith("run_id=")] or ["page"]
        folder = tmp_path / identity
        folder.mkdir(exist_ok=True)
        (folder / "config_resolved.json").write_text(json.dumps({"level1": {"models": MODELS}}))
        if module[1] == "quality":
            raise SystemExit(0)

    monkeypatch.setattr(quality, "call", call)
    monkeypatch.setattr(quality, "REPOSITORY", tmp_path)
    with pytest.raises(SystemExit):
        quality.main(["--data", "tiny", "--preset", "fast", "--ablations", "--out", "."])
    runs, (page,) = [list(words) for words in called[:-1]], called[-1:]
    assert all(words[words.index("--preset") + 1] == "fast" for words in runs)
    names = [
        "quality-tiny-fast",
        *(f"quality-tiny-fast-without-{name}" for name in ("esm2", "t5", "homology", "taxon")),
    ]
    assert [next(word for word in words if word.startswith("run_id=")) for words in runs] == [
        f"run_id={n}" for n in names
    ]
    assert [word.partition("=")[0] for word in page if "quality-tiny-fast-without" in word] == [
        "esm2",
        "t5",
        "homology",
        "taxon",
    ]
