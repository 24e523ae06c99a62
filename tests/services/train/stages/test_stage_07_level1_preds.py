"""Stage 7 from end to end on a planted signal, with the mistakes that published pipelines made."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from services.train.models import MODELS
from services.train.models.base import TrainingData
from services.train.models.saved import read_models, record_path
from services.train.stages import stage_07_level1_preds as stage
from shared.artefacts import artefact
from shared.config import Level1Config
from shared.digests import sha256_file
from shared.errors import DataError, IntegrityError
from shared.ontology import ASPECTS
from tests.fakes.level1_run import QUICK, Level1Run, features_of_tests, stage_context, training_data
from tests.fakes.team import Caller

EVERY = ["homology", "knn", "logreg", "mlp", "cnn"]
LEAST_AUC = {"homology": 0.8, "knn": 0.8, "logreg": 0.95, "mlp": 0.9}  # the signal is not in the sequences


def settings(*models: str, **changes: object) -> Level1Config:
    return QUICK.model_copy(update={"models": list(models), **changes})


def run_stage(folder: Path, config: Level1Config, **where: str) -> Path:
    """Run and return the staging folder."""
    ctx = stage_context(folder, config, **where)
    stage.run(ctx)
    return ctx.staging


def read(staging: Path, path: str) -> object:
    return artefact(path).codec.read(staging / path)


def mean_auc(logits: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float:
    """Mean over terms of the area under the ROC curve among known rows; terms without both classes are left out."""
    areas = []
    for column in range(truth.shape[1]):
        labels = truth[known[:, column], column]
        if 3 <= labels.sum() <= len(labels) - 3:
            areas.append(roc_auc_score(labels, logits[known[:, column], column].astype(float)))
    return float(np.mean(areas))


def scores(planted: Level1Run, staging: Path, model: str) -> tuple[float, float]:
    """Mean AUC of the out-of-fold matrix and of the test matrix, columns looked up by term name."""
    columns = [planted.ontology.index[term] for term in read(staging, "features/level1_terms.json")["terms"]]
    areas = []
    for which, path in (("train", f"features/oof_{model}.npy"), ("test", f"features/test_pred_{model}.npy")):
        truth = planted.labels[which][:, columns]
        known = planted.labels[which][:, :3][:, planted.ontology.aspects[columns]]
        areas.append(mean_auc(np.asarray(read(staging, path)), truth, known))
    return areas[0], areas[1]


@pytest.fixture(scope="module")
def planted() -> Level1Run:
    return Level1Run()


@pytest.fixture(scope="module")
def folder(planted: Level1Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def staging(folder: Path) -> Path:
    return run_stage(folder, settings(*EVERY))


def test_exactly_the_declared_outputs_are_written(folder: Path, staging: Path) -> None:
    declared = stage_context(folder, settings(*EVERY)).output_paths
    assert {str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()} == declared


@pytest.mark.parametrize("model", LEAST_AUC)
def test_every_model_that_sees_the_planted_signal_finds_it(planted: Level1Run, staging: Path, model: str) -> None:
    held_out, test = scores(planted, staging, model)
    assert held_out > LEAST_AUC[model]
    assert test > LEAST_AUC[model]


@pytest.mark.parametrize("model", EVERY)
def test_matrices_are_limited_float16_logits(planted: Level1Run, staging: Path, model: str) -> None:
    terms = read(staging, "features/level1_terms.json")["terms"]
    for path, rows in (
        (f"features/oof_{model}.npy", planted.proteins),
        (f"features/test_pred_{model}.npy", planted.tests),
    ):
        matrix = read(staging, path)
        assert matrix.shape == (rows, len(terms))
        assert matrix.dtype == np.float16
        assert np.abs(matrix).max() <= np.float16(9.21)


def test_terms_are_the_frequent_ones_by_aspect_then_count(planted: Level1Run, folder: Path) -> None:
    staging = run_stage(folder, settings("homology", max_terms=9, min_positives=6), staging="few", work="few_work")
    table = read(staging, "features/level1_terms.json")
    data = training_data(folder)
    fit = data.folds >= 0
    counts = dict(zip(data.terms, data.labels[np.flatnonzero(fit)].sum(0), strict=True))
    chosen = [planted.ontology.index[term] for term in table["terms"]]
    assert len(chosen) == 9
    assert table["aspects"] == [ASPECTS[planted.ontology.aspects[column]] for column in chosen]
    order = [
        (planted.ontology.aspects[column], -counts[term], term)
        for column, term in zip(chosen, table["terms"], strict=True)
    ]
    assert order == sorted(order)
    assert min(counts[term] for term in table["terms"]) >= max(
        counts[term] for term in set(data.terms) - set(table["terms"])
    )
    for fold, mask in table["fold_terms"].items():
        others = data.labels[np.flatnonzero(fit & (data.folds != int(fold)))].sum(0)
        assert mask == [bool(others[data.terms.index(term)] >= 6) for term in table["terms"]]


@pytest.mark.parametrize("model", EVERY)
def test_saved_models_reproduce_the_matrices(folder: Path, staging: Path, model: str) -> None:
    parts = read_models(lambda path: read(staging, path), model)
    data, test = training_data(folder), features_of_tests(folder)
    expected = np.mean([part.logits(test, np.arange(len(test))) for part in parts.values()], axis=0)
    np.testing.assert_allclose(read(staging, f"features/test_pred_{model}.npy"), expected, atol=0.02)
    validation = np.flatnonzero(data.folds < 0)
    expected = np.mean([part.logits(data.features, validation) for part in parts.values()], axis=0)
    held_out = read(staging, f"features/oof_{model}.npy")
    np.testing.assert_allclose(held_out[validation], expected, atol=0.02)
    if not MODELS[model].votes:
        own = np.flatnonzero(data.folds == 2)
        np.testing.assert_allclose(held_out[own], parts["2"].logits(data.features, own), atol=0.02)


def permuted_columns(data: TrainingData) -> TrainingData:
    return dataclasses.replace(data, labels=data.labels[:, np.argsort(data.terms)[::-1]].tocsr())


def shifted_rows(data: TrainingData) -> TrainingData:
    return dataclasses.replace(
        data,
        labels=data.labels[np.roll(np.arange(data.labels.shape[0]), 1)],
        annotated=np.roll(data.annotated, 1, axis=0),
    )


def zeroed_modality(data: TrainingData) -> TrainingData:
    dense = {**data.features.dense, "esm2": np.zeros_like(data.features.dense["esm2"])}
    return dataclasses.replace(data, features=dataclasses.replace(data.features, dense=dense))


@pytest.mark.parametrize("sabotage", [permuted_columns, shifted_rows])
@pytest.mark.parametrize("model", ["logreg", "mlp"])
def test_a_sabotaged_fit_would_fail_the_test_of_the_signal(
    folder: Path, model: str, sabotage: Callable[[TrainingData], TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = stage.load_training_data
    monkeypatch.setattr(stage, "load_training_data", lambda reader: sabotage(load(reader)))
    where = f"{sabotage.__name__}_{model}"
    broken = scores(Level1Run(), run_stage(folder, settings(model), staging=where, work=f"{where}_work"), model)
    assert max(broken) < LEAST_AUC[model] - 0.05


def test_a_modality_that_is_zero_in_train_only_stops_the_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = stage.load_training_data
    monkeypatch.setattr(stage, "load_training_data", lambda reader: zeroed_modality(load(reader)))
    with pytest.raises(IntegrityError, match="esm2 is all zero for 100% of the train proteins"):
        run_stage(folder, settings("logreg"), staging="zeroed", work="zeroed_work")


def digests(staging: Path) -> dict[str, str]:
    return {
        str(path.relative_to(staging)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }


def test_a_second_run_writes_the_same_bytes(folder: Path, staging: Path) -> None:
    assert digests(run_stage(folder, settings(*EVERY), staging="again", work="again_work")) == digests(staging)


def test_a_killed_run_goes_on_with_the_next_fit(folder: Path, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitter = MODELS["mlp"]
    fitted: list[int] = []

    class Dying:
        name, votes, targets = fitter.name, fitter.votes, fitter.targets
        settings, sections, modalities = fitter.settings, fitter.sections, fitter.modalities

        def fit(self, data, rows, context):
            if context.fold == 3 and fitted.count(3) == 0:
                fitted.append(3)
                raise KeyboardInterrupt
            fitted.append(context.fold)
            return fitter.fit(data, rows, context)

    monkeypatch.setitem(MODELS, "mlp", Dying())
    with pytest.raises(KeyboardInterrupt):
        run_stage(folder, settings("mlp"), staging="killed", work="killed_work")
    assert fitted == [0, 1, 2, 3]
    resumed = run_stage(folder, settings("mlp"), staging="killed", work="killed_work")
    assert fitted == [0, 1, 2, 3, 3, 4]
    whole = digests(staging)
    assert digests(resumed) == {path: whole[path] for path in digests(resumed)}


def test_validation_labels_enter_nothing(planted: Level1Run, folder: Path, staging: Path, tmp_path: Path) -> None:
    other = Level1Run()
    validation = np.flatnonzero(training_data(folder).folds < 0)
    other.labels["train"][validation[::2], 3:] = False
    changed = run_stage(other.write(tmp_path), settings("homology", "logreg"))
    for model in ("homology", "logreg"):
        np.testing.assert_array_equal(
            read(changed, f"features/test_pred_{model}.npy"), read(staging, f"features/test_pred_{model}.npy")
        )


@pytest.mark.parametrize("model", ["homology", "logreg"])
def test_a_folds_labels_do_not_enter_its_out_of_fold_scores(
    folder: Path, staging: Path, tmp_path: Path, model: str
) -> None:
    own = np.flatnonzero(training_data(folder).folds == 2)
    other = Level1Run()
    other.labels["train"][own[::2], 3:] = False
    changed = run_stage(other.write(tmp_path), settings(model))
    columns = [
        {term: column for column, term in enumerate(read(where, "features/level1_terms.json")["terms"])}
        for where in (staging, changed)
    ]
    both = sorted(columns[0].keys() & columns[1].keys())
    assert len(both) > 20
    before, after = (
        read(where, f"features/oof_{model}.npy")[:, [place[term] for term in both]]
        for where, place in zip((staging, changed), columns, strict=True)
    )
    # Another order of the columns changes the order of sums, and so at most the last digit.
    np.testing.assert_allclose(after[own].astype(float), before[own].astype(float), atol=0.02)
    assert np.abs(after.astype(float) - before.astype(float)).max() > 0.1


def test_records_and_epochs_are_kept(folder: Path, staging: Path) -> None:
    record = read(staging, record_path("mlp"))
    assert sorted(record["parts"]) == ["0", "1", "2", "3", "4"]
    assert all(0 < part["loss_held_out"] < 0.6 for part in record["parts"].values())
    epochs = (folder / "logs" / "epochs.csv").read_text()
    assert "stage_07_level1_preds,mlp,4,0,loss/train," in epochs
    assert '"pearson/per_head/BP"' in (folder / "logs" / "steps.jsonl").read_text()


def test_absent_modalities_are_skipped(tmp_path: Path) -> None:
    sparse_run = Level1Run()
    for which in ("train", "test"):
        sparse_run.vectors[which]["t5"] = sparse_run.vectors[which]["t5"][:, :0]
    staging = run_stage(sparse_run.write(tmp_path), settings("logreg", "knn"))
    architecture = read(staging, record_path("logreg"))["parts"]["0"]["architecture"]
    assert [name for name, _ in architecture["modalities"]] == ["esm2"]


def test_rows_in_another_order_are_refused(tmp_path: Path) -> None:
    folder = Level1Run().write(tmp_path)
    path = folder / "parsed/splits.feather"
    codec = artefact("parsed/splits.feather").codec
    codec.write(path, codec.read(path).iloc[::-1].reset_index(drop=True))
    with pytest.raises(IntegrityError, match="row 0"):
        run_stage(folder, settings("homology"))


def test_labels_of_unknown_proteins_are_refused(tmp_path: Path) -> None:
    folder = Level1Run().write(tmp_path)
    path = folder / "parsed/train_terms.parquet"
    codec = artefact("parsed/train_terms.parquet").codec
    codec.write(path, codec.read(path).astype({"id": "str"}).replace({"id": {"P0003": "sp|P0003|X"}}))
    with pytest.raises(DataError, match="P0003"):
        run_stage(folder, settings("homology"))


def test_variants_of_a_model_go_through_the_stage_and_say_whose_settings_they_read(tmp_path: Path) -> None:
    planted = Level1Run(proteins=150, tests=12, words=5)
    folder = planted.write(tmp_path / "variants")
    names = ("logreg", "text", "logreg_conditional", "mlp_conditional")
    staging = run_stage(folder, settings(*names))
    for name in names:
        record = read(staging, record_path(name))
        assert record["kind"] == ("mlp" if name.startswith("mlp") else "logreg")
        section = getattr(QUICK, MODELS[name].settings).model_dump(mode="json")
        assert section.items() <= record["options"].items()
        assert ("chain" in record["parts"]["0"]["architecture"]) == name.endswith("conditional")
        out_of_fold, test = scores(planted, staging, name)
        assert out_of_fold > 0.6
        assert test > 0.55
    assert set(read_models(lambda path: read(staging, path), "mlp_conditional")) == {"0", "1", "2", "3", "4"}


def test_helpers_change_no_byte(folder: Path, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, own = stage.Level1Fits.make, []

    def make(fits: stage.Level1Fits, name: str, step: Callable[[], None]) -> None:
        while not own and not any(map(fits.is_made, fits.names)):
            time.sleep(0.02)  # until the helper has made one
        own.append(name)
        honest(fits, name, step)

    monkeypatch.setattr(stage.Level1Fits, "make", make)
    monkeypatch.setattr("services.train.fits.PATIENCE_S", 0.0)
    ctx = stage_context(folder, settings(*EVERY), staging="helped", work="helped_work")
    stage.run(dataclasses.replace(ctx, threads=2))
    assert len(own) < 15
    paths = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    assert {path: sha256_file(ctx.staging / path) for path in paths} == {
        path: sha256_file(staging / path) for path in paths
    }


def test_the_team_is_called_into_the_fits_of_torch_models_and_a_follower_keeps_nothing(
    folder: Path, tmp_path: Path
) -> None:
    leader = Caller()
    ctx = stage_context(folder, settings("homology", "mlp"), staging="called", work="called_work")
    stage.run(dataclasses.replace(ctx, team=leader))
    folds = sorted(set(training_data(folder).folds) - {-1})
    assert leader.calls == [(stage.STAGE.id, f"mlp/{fold}") for fold in folds]
    nowhere = tmp_path / "nowhere"
    fits = stage.STAGE.fits(dataclasses.replace(ctx, staging=nowhere, work=nowhere, output_paths=frozenset()))
    fits.share("mlp/1")
    assert not nowhere.exists()
