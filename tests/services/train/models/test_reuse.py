"""A model that an earlier run fitted is taken from it where nothing that it reads differs, and fitted everywhere else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from services.train.earlier import Earlier
from services.train.models import MODELS
from services.train.models.reuse import model_outputs
from services.train.stage import StageContext
from services.train.stages import stage_07_level1_preds as stage
from shared.config import Level1Config
from shared.digests import sha256_file
from tests.fakes.level1_run import QUICK, Level1Run, stage_context

NAMES = ("homology", "knn", "logreg", "taxon")
DATA_OF = {  # stands for the digests of what earlier stages made
    "parsed/splits.feather": "splits",
    **{f"features/{which}_embeds_{name}.npy": f"{which} {name}" for which in ("train", "test") for name in ("esm2", "t5", "text")},
    "config:transform": "transform",
    "config:level1": "of all models, hashed at once",
    "config:threads": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Level1Run(proteins=120, tests=12, words=5).write(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def earlier(folder: Path) -> Earlier:
    """A run of four models that has ended."""
    ctx = stage_context(folder, QUICK.model_copy(update={"models": list(NAMES)}), staging="first", work="first_work")
    stage.run(ctx)
    files = {str(path.relative_to(ctx.staging)): path for path in ctx.staging.rglob("*") if path.is_file()}
    return Earlier(ctx.staging, DATA_OF, {name: sha256_file(path) for name, path in files.items()})


def taken(
    folder: Path,
    tmp_path: Path,
    earlier: Earlier,
    config: Level1Config,
    digests: dict[str, str] | None = None,
) -> StageContext:
    """The context of a run beside the earlier one; `taken` says what it did not fit."""
    ctx = dataclasses.replace(
        stage_context(folder, config, work=f"work-{tmp_path.name}"),
        staging=tmp_path,
        digests={**DATA_OF, "config:level1": "another", **(digests or {})},
        earlier=lambda: [earlier],
    )
    stage.run(ctx)
    return ctx


def with_models(*names: str, **changes: object) -> Level1Config:
    return QUICK.model_copy(update={"models": list(names), **changes})


def test_a_model_more_fits_that_model_alone_and_gives_the_bytes_of_a_run_without_reuse(
    folder: Path, tmp_path: Path, earlier: Earlier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    make_fit = stage.make_fit
    monkeypatch.setattr(stage, "make_fit", lambda ctx, config, fit, *more: fitted.append(fit.name) or make_fit(ctx, config, fit, *more))  # fmt: skip
    config = with_models("mlp", *NAMES)
    ctx = taken(folder, tmp_path / "reused", earlier, config)
    assert set(fitted) == {"mlp"}
    assert ctx.taken == list(NAMES)
    alone = stage_context(folder, config, staging="alone", work="alone_work")
    stage.run(alone)
    assert set(fitted) == {"mlp", *NAMES}
    for path in sorted(alone.output_paths):
        assert (ctx.staging / path).read_bytes() == (alone.staging / path).read_bytes(), path


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"knn": QUICK.knn.model_copy(update={"neighbours": 7})}, {"homology", "logreg", "taxon"}),
        ({"homology": QUICK.homology.model_copy(update={"identity_power": 2.0})}, {"knn", "logreg", "taxon"}),
        ({"mlp": QUICK.mlp.model_copy(update={"epochs": 99})}, set(NAMES)),
        ({"min_positives": 6}, set()),
        ({"training": QUICK.training.model_copy(update={"seed": 5})}, set()),
    ],
    ids=["own", "another's own", "of a model that is not there", "common", "training"],
)
def test_settings_decide(folder: Path, tmp_path: Path, earlier: Earlier, changes: dict, same: set[str]) -> None:
    assert set(taken(folder, tmp_path, earlier, with_models(*NAMES, **changes)).taken) == same


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ("features/train_embeds_esm2.npy", {"homology", "taxon"}),
        ("features/test_embeds_text.npy", {"homology", "taxon"}),
        ("parsed/splits.feather", set()),
        ("config:transform", set()),
        ("config:threads", set()),
        ("env:torch", set()),
    ],
)
def test_inputs_decide(folder: Path, tmp_path: Path, earlier: Earlier, changed: str, same: set[str]) -> None:
    ctx = taken(folder, tmp_path, earlier, with_models(*NAMES), {changed: "other bytes"})
    assert set(ctx.taken) == same


@pytest.mark.parametrize("path", model_outputs("knn"))
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_files_are_not_taken(
    folder: Path, tmp_path: Path, earlier: Earlier, path: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = earlier.run_folder / path
    content = file.read_bytes()
    try:
        file.unlink()
        if damage == "changed":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        ctx = taken(folder, tmp_path, earlier, with_models(*NAMES))
    finally:
        file.write_bytes(content)
    assert set(ctx.taken) == set(NAMES) - {"knn"}
    assert {name: sha256_file(tmp_path / name) for name in earlier.outputs} == earlier.outputs  # fitted again


def test_a_run_that_was_made_from_something_else_is_passed_over(folder: Path, tmp_path: Path, earlier: Earlier) -> None:
    stranger = dataclasses.replace(earlier, inputs={**earlier.inputs, "parsed/splits.feather": "other splits"})
    ctx = dataclasses.replace(
        stage_context(folder, with_models("knn"), work="between_work"),
        staging=tmp_path,
        digests=DATA_OF,
        earlier=lambda: [stranger, earlier],
    )
    stage.run(ctx)
    assert ctx.taken == ["knn"]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_is_not_declared_cannot_be_read(name: str, folder: Path) -> None:
    config = QUICK.model_copy(update={"models": [name]})
    limited = stage.own_config(config, name)
    present = {key for key, value in limited if value is not None}
    fitter = MODELS[name]
    assert fitter.settings in fitter.sections
    assert {"training", *fitter.sections} <= present
    assert not {"mlp", "cnn", "gbdt", "knn", "logreg", "taxon"} & (present - set(fitter.sections))
