"""Who else hears of a run's metrics."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from shared.config.base import Section


class LogsConfig(Section):
    """Optional receivers of the metrics; `logs/` of the run is written in any case.

    Neither decides anything: no key is in a fingerprint or in the run's name.
    """

    writers: list[Literal["mlflow", "wandb"]] = Field([], description="each needs its package: mlflow, wandb")
    project: str = Field("gowhy", min_length=1, description="experiment in MLflow, project in W&B")
    mlflow_uri: str | None = Field(
        None, description="tracking server or database; null: MLFLOW_TRACKING_URI, else <paths.out>/mlflow.db"
    )
    wandb_mode: Literal["offline", "online"] = Field("offline", description="offline: files for `wandb sync`")

    @field_validator("mlflow_uri")
    @classmethod
    def _without_credentials(cls, uri: str | None) -> str | None:
        # Configs are copied into every run folder; a secret must never be in one.
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError("no credentials in a URI; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return uri
