"""Stage 8 from files to files: honesty, resume, determinism, edges."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.train.stages import stage_08_stacker
from services.train.stages.stage_08_stacker import STAGE
from shared.artefacts import artefact
from shared.config import Config, StackerConfig
from shared.digests import sha256_file
from shared.errors import IntegrityError
from shared.models.calibration import BetaCalibration, Calibration
from shared.models.channels import goa_matrices
from shared.nn.stacker import StackerEnsemble
from tests.fakes.planted import STACKER, Planted, stage_context
from tests.fakes.team import Caller

QUICK = STACKER.model_copy(update={"epochs": 2, "terms": 1000})
SMALL = {"sizes": (6, 9, 4), "proteins": 160, "tests": 9, "folds": 3}


def run(planted: Planted, folder: Path, work: Path | None = None) -> Path:
    STAGE.run(stage_context(planted.write(folder), planted.config(QUICK), work))
    return folder / "staging"


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(**SMALL)


@pytest.fixture(scope="module")
def finished(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(planted, tmp_path_factory.mktemp("finished"))


def read(folder: Path, path: str):
    return artefact(path).codec.read(folder / path)


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_declared_output_is_there_with_its_shape(planted: Planted, finished: Path) -> None:
    assert set(digests(finished)) == set(STAGE.outputs(planted.config(QUICK)))
    top = read(finished, "features/top_terms_1500.json")
    assert len(top["terms"]) == len(top["aspects"]) == 19
    oof, test = read(finished, "features/oof_gcn.npy"), read(finished, "features/test_pred_gcn.npy")
    assert (oof.shape, test.shape) == ((160, 19), (9, 19))
    assert (oof.dtype, test.dtype) == (np.float16, np.float16)
    assert np.isfinite(oof).all()


def test_terms_are_the_most_frequent_among_fit_rows(planted: Planted, finished: Path) -> None:
    frequency = planted.labels[planted.folds_of >= 0].sum(0)
    expected = sorted(range(19), key=lambda term: (-frequency[term], planted.ontology.terms[term]))
    assert read(finished, "features/top_terms_1500.json")["terms"] == [planted.ontology.terms[t] for t in expected]


def restored(folder: Path) -> StackerEnsemble:
    weights = torch.load(folder / "models/stacker.pth", weights_only=True)
    return StackerEnsemble.restore(read(folder, "models/stacker.json"), weights)


def goa_of(planted: Planted, finished: Path, which: str, ids: list[str]):
    frame = read(finished.parent, f"external/prop_{which}_no_kaggle.tsv.gz")
    return goa_matrices([frame], ids, read(finished, "features/top_terms_1500.json")["terms"])


def test_what_is_restored_predicts_the_stage_s_own_scores(planted: Planted, finished: Path) -> None:
    ensemble = restored(finished)
    exact = {name: matrix.astype(np.float32) for name, matrix in planted.test_level1.items()}
    goa = goa_of(planted, finished, "test", [f"T{i:05d}" for i in range(9)])
    scores = ensemble.logits(exact, goa)
    np.testing.assert_array_equal(scores.astype(np.float16), read(finished, "features/test_pred_gcn.npy"))


def test_out_of_fold_rows_come_from_their_own_fold_s_stacker(planted: Planted, finished: Path) -> None:
    ensemble, oof = restored(finished), read(finished, "features/oof_gcn.npy")
    goa = goa_of(planted, finished, "train", [f"P{i:05d}" for i in range(160)])
    layout = ensemble.layout
    fitted = read(finished.parent, "features/level1_terms.json")["fold_terms"]
    for fold in (-1, 0, 2):
        rows = np.flatnonzero(planted.folds_of == fold)
        missing = None if fold < 0 else 1 - np.array(fitted[str(fold)], np.float32)[list(layout.columns)]
        scores = ensemble.logits(
            {name: matrix[rows] for name, matrix in planted.level1.items()},
            {kind: matrix[rows] for kind, matrix in goa.items()},
            fold=None if fold < 0 else fold,
            missing=missing,
        )
        np.testing.assert_array_equal(scores.astype(np.float16), oof[rows])


def test_the_record_holds_what_predict_and_the_reader_need(planted: Planted, finished: Path) -> None:
    record = read(finished, "models/stacker.json")
    assert record["channels"] == ["level1:homology", "level1:knn", "missing", "goa:IEA", "goa:ISS"]
    assert set(record["calibration"]) == {"MF", "BP", "CC"}
    calibration = Calibration.from_json(record)
    assert all(0 < threshold < 1 for threshold in calibration.low_conf_threshold.values())
    assert set(record["roots"]) == set(planted.ontology.roots.values())
    assert set(record["folds_record"]) == {"0", "1", "2"}
    for aspect in ("MF", "BP", "CC"):
        held_out = record["validation"][aspect]
        assert held_out["loss_stacker"] < min(held_out["loss_level1"].values())


def test_calibration_is_fitted_on_out_of_fold_rows_of_annotated_proteins(planted: Planted, finished: Path) -> None:
    record, oof = read(finished, "models/stacker.json"), read(finished, "features/oof_gcn.npy")
    fit = planted.folds_of >= 0
    columns = [planted.ontology.index[term] for term in record["terms"]]
    labels, aspects = planted.labels[:, columns], np.array(record["aspects"])
    for index, aspect in enumerate(("MF", "BP", "CC")):
        beta = BetaCalibration(**record["calibration"][aspect])
        rows = fit & planted.annotated[:, index]
        p = beta.probabilities(oof[rows][:, aspects == aspect])
        # Weak pull towards the identity aside, the mean prediction equals the mean label.
        assert p.mean() == pytest.approx(labels[rows][:, aspects == aspect].mean(), abs=2e-3)
        proper = (aspects == aspect) & ~np.isin(record["terms"], record["roots"])
        tops = beta.probabilities(oof[rows][:, proper].max(1))
        assert record["low_conf_threshold"][aspect] == pytest.approx(np.quantile(tops, 0.2), abs=1e-3)


def test_a_second_run_writes_the_same_bytes(planted: Planted, finished: Path, tmp_path: Path) -> None:
    assert digests(run(planted, tmp_path)) == digests(finished)


def test_after_a_kill_finished_parts_are_not_fitted_again(
    planted: Planted, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[int, str]] = []
    honest = stage_08_stacker.fit_aspect

    def dying(data, context):
        if len(fitted) == 4:
            raise KeyboardInterrupt
        fitted.append((context.fold, data.aspect))
        return honest(data, context)

    monkeypatch.setattr(stage_08_stacker, "fit_aspect", dying)
    with pytest.raises(KeyboardInterrupt):
        run(planted, tmp_path, tmp_path / "kept")
    before = list(fitted)
    (tmp_path / "kept/fold0_BP.json").unlink()  # its weights are there, but nothing vouches for them
    fitted.clear()
    monkeypatch.setattr(
        stage_08_stacker, "fit_aspect", lambda d, c: (fitted.append((c.fold, d.aspect)), honest(d, c))[1]
    )
    assert digests(run(planted, tmp_path, tmp_path / "kept")) == digests(finished)
    everything = {(fold, aspect) for fold in range(3) for aspect in ("MF", "BP", "CC")}
    assert set(fitted) == everything - set(before) | {(0, "BP")}


def test_helpers_change_no_byte(
    planted: Planted, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, own = stage_08_stacker.StackerFits.make, []

    def make(fits: stage_08_stacker.StackerFits, name: str, step: Callable[[], None]) -> None:
        while not own and not any(map(fits.is_made, fits.names)):
            time.sleep(0.02)  # until the helper has made one
        own.append(name)
        honest(fits, name, step)

    monkeypatch.setattr(stage_08_stacker.StackerFits, "make", make)
    monkeypatch.setattr("services.train.fits.PATIENCE_S", 0.0)
    ctx = stage_context(planted.write(tmp_path), planted.config(QUICK))
    STAGE.run(replace(ctx, threads=2))
    assert len(own) < 9
    assert digests(ctx.staging) == digests(finished)


def test_the_team_is_called_into_every_fit_and_a_follower_keeps_nothing(
    planted: Planted, finished: Path, tmp_path: Path
) -> None:
    leader = Caller()
    ctx = stage_context(planted.write(tmp_path), planted.config(QUICK))
    STAGE.run(replace(ctx, team=leader))
    assert digests(ctx.staging) == digests(finished)
    assert leader.calls == [(STAGE.id, f"{fold}/{aspect}") for fold in range(3) for aspect in ("MF", "BP", "CC")]
    nowhere = tmp_path / "nowhere"
    fits = stage_08_stacker.STAGE.fits(replace(ctx, staging=nowhere, work=nowhere, output_paths=frozenset()))
    fits.share("1/BP")
    assert not nowhere.exists()


def test_losses_are_logged_per_fold_aspect_and_epoch(finished: Path) -> None:
    lines = (finished.parent / "logs/epochs.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 3 * QUICK.epochs
    assert {line.split(",")[2] for line in lines[1:]} == {"stacker_MF", "stacker_BP", "stacker_CC"}


@pytest.mark.parametrize(
    ("change", "channels", "aspects"),
    [
        ({"goa": False, "models": ("knn",)}, ["level1:knn", "missing"], {"MF", "BP", "CC"}),
        ({"sizes": (5, 1, 0), "tests": 0}, None, {"MF", "BP"}),
        ({"folds": 2}, None, {"MF", "BP", "CC"}),
    ],
    ids=["no GOA and one model", "an aspect of one term, one of none, no test proteins", "two folds"],
)
def test_edge_cases_run(tmp_path: Path, change: dict, channels: list[str] | None, aspects: set[str]) -> None:
    planted = Planted(**{**SMALL, "proteins": 90, **change})
    staging = run(planted, tmp_path)
    record = json.loads((staging / "models/stacker.json").read_bytes())
    assert set(record["aspects"]) == set(record["edges"]) == aspects
    assert channels is None or record["channels"] == channels
    assert np.isfinite(read(staging, "features/oof_gcn.npy")).all()
    assert read(staging, "features/test_pred_gcn.npy").shape == (planted.tests, sum(planted.sizes))


def test_a_level1_matrix_of_another_term_list_is_refused(tmp_path: Path) -> None:
    planted = Planted(**SMALL)
    planted.level1["knn"] = planted.level1["knn"][:, :-1]
    with pytest.raises(IntegrityError, match="oof_knn"):
        run(planted, tmp_path)


def test_bundle_settings_are_none_of_the_stacker_s() -> None:
    ours = STAGE.settings(Config())
    assert set(ours) == {"stacker", "level1"}
    other = Config(stacker=StackerConfig(low_conf_quantile=0.4))
    assert STAGE.settings(other)["stacker"].fingerprint_values() != ours["stacker"].fingerprint_values()


def test_the_low_confidence_quantile_is_the_stacker_s(planted: Planted, finished: Path, tmp_path: Path) -> None:
    config = planted.config(QUICK.model_copy(update={"low_conf_quantile": 0.5}))
    STAGE.run(stage_context(planted.write(tmp_path), config))
    median, usual = (
        read(folder, "models/stacker.json")["low_conf_threshold"] for folder in (tmp_path / "staging", finished)
    )
    assert all(median[aspect] > usual[aspect] for aspect in ("MF", "BP", "CC"))
