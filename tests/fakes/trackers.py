"""The parts of mlflow 3.17 and wandb 0.31 that gowhy calls, with the real packages' signatures; records in memory.

A wrong keyword fails here as it would there. Names of metrics are checked as the strictest MLflow server does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, Literal


class MlflowException(Exception):
    pass


@dataclass(frozen=True)
class Metric:
    key: str
    value: float
    timestamp: int
    step: int
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None
    run_id: str | None = None


@dataclass
class MlflowServer:
    """What is behind one tracking URI."""

    experiments: dict[str, str] = field(default_factory=dict)  # name -> id
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    down: bool = False


def fake_mlflow() -> Any:
    """A module `mlflow`; `module.servers` maps tracking URI -> MlflowServer."""
    servers: dict[str | None, MlflowServer] = {}

    class MlflowClient:
        def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
            self.server = servers.setdefault(tracking_uri, MlflowServer())
            if self.server.down:
                raise MlflowException("API request failed\nretries exhausted")

        def get_experiment_by_name(self, name: str) -> Any:
            found = self.server.experiments.get(name)
            return None if found is None else SimpleNamespace(experiment_id=found, name=name)

        def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
            return self.server.experiments.setdefault(name, str(len(self.server.experiments) + 1))

        def search_runs(
            self,
            experiment_ids: list[str],
            filter_string: str = "",
            run_view_type: int = 1,
            max_results: int = 1000,
            order_by: list[str] | None = None,
            page_token: str | None = None,
        ) -> list[Any]:
            key, value = re.fullmatch(r"tags\.(\w+) = '([^']*)'", filter_string).groups()
            runs = [
                r for r in self.server.runs.values() if r["experiment"] in experiment_ids and r["tags"][key] == value
            ]
            return [SimpleNamespace(info=SimpleNamespace(run_id=r["id"])) for r in runs][:max_results]

        def create_run(
            self,
            experiment_id: str,
            start_time: int | None = None,
            tags: dict[str, Any] | None = None,
            run_name: str | None = None,
        ) -> Any:
            run = {"id": f"r{len(self.server.runs)}", "experiment": experiment_id, "tags": tags, "name": run_name}
            self.server.runs[run["id"]] = {**run, "status": "RUNNING", "metrics": []}
            return SimpleNamespace(info=SimpleNamespace(run_id=run["id"]))

        def log_batch(
            self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), synchronous: bool | None = None
        ) -> None:
            if self.server.down:
                raise MlflowException("connection refused")
            assert len(metrics) <= 1000
            for metric in metrics:
                assert re.fullmatch(r"[/\w.\- ]+", metric.key)
                assert isinstance(metric.timestamp, int)
                assert isinstance(metric.step, int)
            self.server.runs[run_id]["metrics"] += metrics

        def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
            assert status in {"FINISHED", "FAILED", "KILLED"}
            self.server.runs[run_id]["status"] = status

    module = ModuleType("mlflow")
    module.__dict__.update(
        MlflowClient=MlflowClient,
        entities=SimpleNamespace(Metric=Metric),
        exceptions=SimpleNamespace(MlflowException=MlflowException),
        servers=servers,
    )
    return module


class WandbError(Exception):
    pass


@dataclass
class WandbRun:
    id: str
    options: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    step_metrics: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is None, "wandb drops records whose step went back"
        self.rows.append(data)

    def define_metric(self, name: str, step_metric: str | None = None, step_sync: bool | None = None) -> None:
        self.step_metrics[name] = step_metric

    def finish(self, exit_code: int | None = None) -> None:
        self.exit_code = exit_code


def fake_wandb(*, logged_in: bool = True) -> Any:
    """A module `wandb`; `module.runs` maps id -> WandbRun."""
    runs: dict[str, WandbRun] = {}

    def init(
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,  # noqa: A002 - wandb's name
        id: str | None = None,  # noqa: A002 - wandb's name
        name: str | None = None,
        config: dict[str, Any] | None = None,
        mode: Literal["online", "offline", "disabled", "shared"] | None = None,
        resume: bool | Literal["allow", "never", "must", "auto"] | None = None,
    ) -> WandbRun:
        if mode == "online" and not logged_in:
            raise WandbError("No API key configured. Use `wandb login` to log in.")
        assert re.fullmatch(r"[^/\\#?%:]{1,64}", str(id))
        return runs.setdefault(str(id), WandbRun(str(id), {"project": project, "name": name, "dir": dir, "mode": mode}))

    module = ModuleType("wandb")
    module.__dict__.update(init=init, errors=SimpleNamespace(Error=WandbError), runs=runs)
    return module
