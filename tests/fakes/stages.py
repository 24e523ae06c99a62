"""A two-stage pipeline over real catalogue artefacts, for tests of the runner."""

from __future__ import annotations

import os
from collections.abc import Callable

import pandas as pd

from services.train.stage import Stage, StageContext, always
from shared.config import GoaConfig, TextConfig

CALLS: list[str] = []


def _first(ctx: StageContext) -> None:
    CALLS.append("first")
    ctx.write(
        "external/entryid_text.tsv",
        pd.DataFrame({"EntryID": ["P1", "P2"], "text": ["a", str(len(ctx.settings(TextConfig).drop_lines))]}),
    )
    ctx.write("external/text_manifest.json", {"rows": 2})


def _second(ctx: StageContext) -> None:
    CALLS.append("second")
    if os.environ.get("FAKE_STAGE_FAILS"):
        raise OSError(28, "No space left on device", "somewhere")
    table = ctx.read("external/entryid_text.tsv")
    ctx.write("external/goa_manifest.json", {"text": list(table["text"])})


FIRST = Stage(
    "first", 1, _first, always(), always("external/entryid_text.tsv", "external/text_manifest.json"), (TextConfig,)
)
SECOND = Stage(
    "second", 1, _second, always("external/entryid_text.tsv"), always("external/goa_manifest.json"), (GoaConfig,)
)
PIPELINE = (FIRST, SECOND)


def with_run(stage: Stage, run: Callable[[StageContext], None]) -> Stage:
    """The same stage with another function."""
    return Stage(stage.id, stage.version, run, stage.inputs, stage.outputs, stage.sections)
