"""Metrics reach MLflow and W&B when asked, and a tracker that fails never ends a run."""

from __future__ import annotations

import json
import sys

import pytest
from fakes.trackers import fake_mlflow, fake_wandb
from pydantic import ValidationError

from services.train.cli import build_parser
from shared.config import Config, LogsConfig
from shared.config.load import config_digest
from shared.edge import main
from shared.errors import MissingInput, ServiceUnavailable
from shared.log_writers import WRITERS, open_writers
from shared.logs import Logger


@pytest.fixture
def mlflow(monkeypatch):
    module = fake_mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return module


@pytest.fixture
def wandb(monkeypatch):
    module = fake_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def logger(tmp_path, name: str, **config) -> Logger:
    writers = open_writers(LogsConfig(writers=[name], **config), "run-1", tmp_path)
    return Logger(tmp_path / "logs", writers, quiet=True)


def train(log: Logger) -> None:
    """What a small run says."""
    for epoch in (0, 1):
        log.epoch({"loss/train": 1.0 - epoch, "loss/val": None}, epoch=epoch, stage="s7", model="cnn", fold=3)
    log.step({"fmax/MF": 0.5, "pearson/per_head/GO:0005524": float("nan")}, stage="s9", model="gcn", part="val")
    log.step({"pearson/per_head/GO:0005524": 0.25}, stage="s9", model="gcn", part="test")


def test_mlflow_gets_every_defined_metric_and_the_end(mlflow, tmp_path) -> None:
    log = logger(tmp_path, "mlflow", project="proteins")
    train(log)
    log.close(finished=True)
    (uri,) = mlflow.servers
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    server = mlflow.servers[uri]
    (run,) = server.runs.values()
    assert list(server.experiments) == ["proteins"]
    assert (run["name"], run["status"]) == ("run-1", "FINISHED")
    assert [(m.key, m.value, m.step) for m in run["metrics"]] == [
        ("cnn/fold3/loss/train", 1.0, 0),
        ("cnn/fold3/loss/train", 0.0, 1),
        ("gcn/val/fmax/MF", 0.5, 0),
        ("gcn/test/pearson/per_head/GO_0005524", 0.25, 0),
    ]


def test_a_resumed_run_continues_its_mlflow_run(mlflow, tmp_path) -> None:
    logger(tmp_path, "mlflow").close(finished=False)
    (run,) = next(iter(mlflow.servers.values())).runs.values()
    assert run["status"] == "FAILED"
    train(logger(tmp_path, "mlflow"))
    assert len(next(iter(mlflow.servers.values())).runs) == 1
    assert len(run["metrics"]) == 4


def test_a_named_server_wins_over_the_environment(mlflow, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    logger(tmp_path, "mlflow", mlflow_uri="http://127.0.0.1:2")
    logger(tmp_path, "mlflow")
    assert list(mlflow.servers) == ["http://127.0.0.1:2", "http://127.0.0.1:1"]


def test_wandb_is_offline_unless_asked_and_logs_without_steps(wandb, tmp_path) -> None:
    log = logger(tmp_path, "wandb")
    train(log)
    log.close(finished=True)
    (run,) = wandb.runs.values()
    assert run.options == {"project": "gowhy", "name": "run-1", "dir": str(tmp_path), "mode": "offline"}
    assert run.step_metrics == {"*": "epoch"}
    assert run.rows[:2] == [{"cnn/fold3/loss/train": 1.0, "epoch": 0}, {"cnn/fold3/loss/train": 0.0, "epoch": 1}]
    assert run.rows[3] == {"gcn/test/pearson/per_head/GO:0005524": 0.25}
    assert run.exit_code == 0


def test_a_long_run_name_gets_an_id_that_wandb_takes(wandb, tmp_path) -> None:
    open_writers(LogsConfig(writers=["wandb"]), "r" * 100, tmp_path)
    assert len(next(iter(wandb.runs))) == 32


def test_without_key_or_server_the_run_does_not_start(monkeypatch, mlflow, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(logged_in=False))
    with pytest.raises(ServiceUnavailable, match="No API key"):
        logger(tmp_path, "wandb", wandb_mode="online")
    logger(tmp_path, "mlflow")
    next(iter(mlflow.servers.values())).down = True
    with pytest.raises(ServiceUnavailable, match="API request failed"):
        logger(tmp_path, "mlflow")


@pytest.mark.parametrize("name", WRITERS)
def test_a_package_that_is_not_installed_is_named(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingInput, match=f"Install {name}"):
        logger(tmp_path, name)


def test_a_tracker_that_dies_is_dropped_and_the_files_stay_whole(mlflow, tmp_path) -> None:
    log = logger(tmp_path, "mlflow")
    log.epoch({"loss/train": 1.0}, epoch=0)
    next(iter(mlflow.servers.values())).down = True
    train(log)
    log.close(finished=True)
    assert len((tmp_path / "logs/epochs.csv").read_text().splitlines()) == 1 + 1 + 4
    warnings = [json.loads(line)["message"] for line in (tmp_path / "logs/run.jsonl").read_text().splitlines()]
    assert len(warnings) == 1
    assert "MlflowWriter failed" in warnings[0]


def test_nobody_else_hears_by_default_and_the_choice_names_no_other_run(tmp_path) -> None:
    assert open_writers(Config().logs, "run-1", tmp_path) == ()
    assert config_digest(Config(logs=LogsConfig(writers=["wandb"]))) == config_digest(Config())


def test_credentials_do_not_get_into_a_config() -> None:
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        LogsConfig(mlflow_uri="https://me:secret@server/")


def test_a_run_opens_its_writers_before_the_first_stage_and_closes_them(wandb, tmp_path, monkeypatch, capsys) -> None:
    command = ["run", "--quiet", "--set", f"paths.out={tmp_path}", "--set", "run_id=r", "--set", "logs.writers=[wandb]"]
    assert main(build_parser(), command) == 66
    assert "data.train_fasta" in capsys.readouterr().err  # stage 1 was reached, and had nothing to read
    (run,) = wandb.runs.values()
    assert (run.id, run.exit_code) == ("r", 1)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(build_parser(), command) == 66
    assert "Install wandb" in capsys.readouterr().err
