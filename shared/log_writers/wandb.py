"""Metrics to Weights & Biases; offline by default, into files for `wandb sync`.

Source: wandb.init, wandb.Run.log, define_metric, finish, 0.31. The key is wandb's own: WANDB_API_KEY or `wandb login`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.config.logs import LogsConfig
from shared.errors import ServiceUnavailable
from shared.logs import Writer, series


@dataclass(frozen=True, slots=True)
class WandbWriter:
    """One W&B run. Its own step only counts records; `epoch` is a value, because models run one after another."""

    run: Any

    def step(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        self.run.log(series(record))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See `Writer`."""
        self.run.log({**series(record), "epoch": int(record["epoch"])})

    def close(self, finished: bool) -> None:
        """See `Writer`."""
        self.run.finish(exit_code=0 if finished else 1)


def open_writer(package: ModuleType, config: LogsConfig, run_id: str, out: Path) -> Writer:
    """Continue the run of this name, or create it.

    Raises:
        ServiceUnavailable: W&B does not answer, or has no key.
    """
    # An id is at most 64 characters; run names may be longer.
    identity = run_id if len(run_id) <= 64 else hashlib.sha256(run_id.encode()).hexdigest()[:32]
    # wandb writes into `<dir>/wandb` and falls back to the temporary folder where `dir` does not exist.
    out.mkdir(parents=True, exist_ok=True)
    try:
        run = package.init(
            project=config.project, id=identity, name=run_id, dir=str(out), mode=config.wandb_mode, resume="allow"
        )
        run.define_metric("*", step_metric="epoch")
    except (package.errors.Error, OSError) as error:
        raise ServiceUnavailable(
            f"W&B: {str(error).splitlines()[0]}", where="logs.wandb_mode", remedy="Use offline, or check WANDB_API_KEY"
        ) from error
    return WandbWriter(run)
