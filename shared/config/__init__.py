"""The one Config: defaults < file < environment < `--set` < `--overrides`.

Environment: `GOWHY_CFG__<SECTION>__<KEY>`. Config files may interpolate `${GOWHY_DATA}` and nothing
else. Schema: `schema/config.schema.json`.
"""

from __future__ import annotations

from shared.config.base import InputFile, Section
from shared.config.bundle import BundleConfig
from shared.config.data import DataConfig, HomologyConfig, SplitConfig
from shared.config.embed import EmbedConfig, EncoderConfig, TransformConfig
from shared.config.goa import GoaConfig
from shared.config.level1 import HomologyVoteConfig, Level1Config
from shared.config.logs import LogsConfig
from shared.config.pretrain import PretrainConfig
from shared.config.root import Config, PathsConfig, StoreConfig
from shared.config.stacker import StackerConfig
from shared.config.submission import EvaluationConfig, SubmissionConfig
from shared.config.text import TextConfig, TfidfConfig

__all__ = [
    "BundleConfig",
    "Config",
    "DataConfig",
    "EmbedConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "GoaConfig",
    "HomologyConfig",
    "HomologyVoteConfig",
    "InputFile",
    "Level1Config",
    "LogsConfig",
    "PathsConfig",
    "PretrainConfig",
    "Section",
    "SplitConfig",
    "StackerConfig",
    "StoreConfig",
    "SubmissionConfig",
    "TextConfig",
    "TfidfConfig",
    "TransformConfig",
]
