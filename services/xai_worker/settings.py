"""Settings of the queue and the worker processes; the only reader of their GOWHY_XAI_* variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from services.xai_worker.environment import PREFIX, EnvironmentSettings
from shared.env import Policy
from shared.errors import ConfigError


def default_database(environment: Mapping[str, str] = os.environ) -> str:
    """What the file GOWHY_XAI_DATABASE_URL_FILE holds, such as a mounted secret; else a SQLite file outside of ./out.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if name := environment.get("GOWHY_XAI_DATABASE_URL_FILE"):
        try:
            url = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {name}", where="GOWHY_XAI_DATABASE_URL_FILE") from error
        if not url:
            raise ConfigError(f"{name} is empty", where="GOWHY_XAI_DATABASE_URL_FILE", remedy="It holds one URL")
        return url
    state = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return f"sqlite:///{Path(state).expanduser() / 'gowhy' / 'xai_worker.sqlite3'}"


class WorkerSettings(EnvironmentSettings):
    """What is bounded, how a job runs, how long things may take. Each field is GOWHY_XAI_<FIELD>."""

    out: Path = Field(Path("out"), description="the volume shared with train")
    database_url: str = Field(
        default_factory=default_database, description="sqlite:///FILE, or postgresql://... for many machines"
    )

    queue_bound: int = Field(100, ge=1, description="jobs that may wait; the next is refused")
    owner_bound: int = Field(100, ge=1, description="unfinished jobs that one token may have")
    retention_days: float = Field(30, ge=1, description="finished jobs and their keys are forgotten after this")

    concurrency: int = Field(1, ge=1, le=64, description="jobs that one worker process runs at once")
    job_timeout_s: float = Field(3600, gt=0, description="an attempt that takes longer is stopped")
    kill_grace_s: float = Field(5, ge=0, description="from SIGTERM to SIGKILL of a job's process")
    drain_s: float = Field(30, ge=0, description="grace for running jobs after SIGTERM; then they are handed back")

    max_attempts: int = Field(3, ge=1, description="failed attempts after which a job is given up")
    backoff_base_s: float = Field(2, gt=0, description="the first retry waits up to this, each later one twice as long")
    backoff_cap_s: float = Field(120, gt=0, description="but never longer than this")

    poll_s: float = Field(0.5, gt=0, description="how often a free slot looks for a job")
    heartbeat_s: float = Field(2, gt=0, description="how often a worker says that it lives")
    lease_s: float = Field(20, gt=0, description="a worker silent for longer is dead: its jobs go to others")

    device: str = Field("cpu", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(1, ge=1, description="threads per job; single proteins are too small to share")
    env_policy: Policy | None = Field(None, description="strict, warn or ignore; default: GOWHY_ENV_POLICY, else warn")

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings."""
        given = self.model_dump(mode="json", exclude_none=True)
        return {PREFIX + name.upper(): str(value) for name, value in given.items()}
