"""Metrics to an MLflow tracking server or database file.

Source: mlflow.MlflowClient (create_run, log_batch, set_terminated) and mlflow.entities.Metric, 3.17.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.config.logs import LogsConfig
from shared.errors import ServiceUnavailable
from shared.logs import Writer, milliseconds, series

_REFUSED = re.compile(r"[^\w.\- /]")  # a GO id's colon is not allowed in a metric's name everywhere
METRICS_PER_BATCH = 1000


@dataclass(slots=True)
class MlflowWriter:
    """One MLflow run; `steps` counts the records of a series that have no epoch."""

    package: ModuleType
    client: Any
    run_id: str
    steps: dict[str, int]

    def step(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        metrics = series(record)
        first = next(iter(metrics), "")
        number = self.steps[first] = self.steps.get(first, -1) + 1
        self._log(metrics, number, record)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        self._log(series(record), int(record["epoch"]), record)

    def close(self, finished: bool) -> None:
        """See `Writer`."""
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "FAILED")

    def _log(self, metrics: Mapping[str, float], step: int, record: Mapping[str, Any]) -> None:
        entity, at = self.package.entities.Metric, milliseconds(record)
        points = [entity(_REFUSED.sub("_", name), value, at, step) for name, value in metrics.items()]
        for start in range(0, len(points), METRICS_PER_BATCH):
            self.client.log_batch(self.run_id, metrics=points[start : start + METRICS_PER_BATCH])


def open_writer(package: ModuleType, config: LogsConfig, run_id: str, out: Path) -> Writer:
    """Continue the run of this name, or create it.

    Raises:
        ServiceUnavailable: the tracking server does not answer.
    """
    # MLflow refuses plain folders since 3.17; a database file needs no server either.
    uri = config.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    out.mkdir(parents=True, exist_ok=True)
    try:
        client = package.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(config.project)
        experiment = found.experiment_id if found else client.create_experiment(config.project)
        # The tag and not the name: names need not be unique, and may hold quotes.
        earlier = client.search_runs([experiment], filter_string=f"tags.gowhy_run_id = '{run_id}'", max_results=1)
        run = earlier[0] if earlier else client.create_run(experiment, tags={"gowhy_run_id": run_id}, run_name=run_id)
        return MlflowWriter(package, client, run.info.run_id, {})
    except package.exceptions.MlflowException as error:
        raise ServiceUnavailable(
            f"MLflow: {str(error).splitlines()[0]}", where="logs.mlflow_uri", remedy="Check the tracking server"
        ) from error
