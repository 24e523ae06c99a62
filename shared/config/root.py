"""The whole config: one field per section."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from shared.config.base import Section
from shared.config.bundle import BundleConfig
from shared.config.data import DataConfig, HomologyConfig, SplitConfig
from shared.config.embed import EmbedConfig, TransformConfig
from shared.config.goa import GoaConfig
from shared.config.level1 import Level1Config
from shared.config.logs import LogsConfig
from shared.config.pretrain import PretrainConfig
from shared.config.stacker import StackerConfig
from shared.config.submission import EvaluationConfig, SubmissionConfig
from shared.config.text import TextConfig, TfidfConfig


class PathsConfig(Section):
    """Where things are written."""

    out: Path = Path("out")
    work_root: Path | None = Field(
        None, description="relative input paths are under this folder; null: the current one"
    )


class StoreConfig(Section):
    """Where checkpoints live; the local run folder is only a cache of it."""

    url: str = Field("local://", description="local:// means <paths.out>/store; see docs/stores.md")
    split: Literal["auto", "always", "never"] = Field(
        "auto", description="whether stages 5 and 6 go to a dataset of their own; auto: above split_over_bytes"
    )
    split_over_bytes: int = Field(1 << 30, ge=0, description="of stages 5 and 6 together, for split: auto")
    parallel: int = Field(4, ge=1, le=32, description="files in flight at a time")
    deadline_s: float = Field(1800.0, gt=0, description="how long to wait for a remote that is busy or does not answer")


def _allow_extends(schema: dict[str, Any]) -> None:
    """A config file may name presets; they are resolved before the Config is built."""
    paths = {"type": "array", "items": {"type": "string"}}
    about = "files to build on, relative to this one; own keys win"
    schema["properties"]["extends"] = {"description": about, "anyOf": [{"type": "string"}, paths]}


class Config(Section):
    """Everything that decides a run."""

    model_config = ConfigDict(json_schema_extra=_allow_extends)

    run_id: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(2, ge=1, description="fixed, because sums depend on it; recorded in the manifest")
    paths: PathsConfig = PathsConfig()
    store: StoreConfig = StoreConfig()
    logs: LogsConfig = LogsConfig()
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    homology: HomologyConfig = HomologyConfig()
    text: TextConfig = TextConfig()
    tfidf: TfidfConfig = TfidfConfig()
    goa: GoaConfig = GoaConfig()
    embed: EmbedConfig = EmbedConfig()
    transform: TransformConfig = TransformConfig()
    level1: Level1Config = Level1Config()
    stacker: StackerConfig = StackerConfig()
    bundle: BundleConfig = BundleConfig()
    submission: SubmissionConfig = SubmissionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    pretrain: PretrainConfig = PretrainConfig()
