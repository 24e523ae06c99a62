"""A StageContext over a temporary run folder, as the runner would build it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.train.stage import Stage, StageContext
from shared.artefacts import artefact
from shared.config import Config
from shared.logs import Logger


def run_stage(
    stage: Stage,
    root: Path,
    inputs: Mapping[str, Any],
    config: Config | None = None,
    files: Mapping[str, Path] | None = None,
    *,
    attempt: str = "staging",
) -> StageContext:
    """Write the inputs by their codecs, run the stage, return the context; its outputs are in `staging`."""
    config = config or Config()
    run_folder = root / "run"
    for path, value in inputs.items():
        target = run_folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        artefact(path).codec.write(target, value)
    ctx = StageContext(
        stage=stage,
        sections=stage.settings(config),
        files=files or {},
        run_folder=run_folder,
        staging=root / attempt,
        work=root / "work",
        cache=root / "cache",
        device="cpu",
        threads=1,
        input_paths=frozenset(stage.inputs(config)),
        output_paths=frozenset(stage.outputs(config)),
        log=Logger(root / "logs", quiet=True),
    )
    ctx.work.mkdir(parents=True, exist_ok=True)
    ctx.staging.mkdir(parents=True, exist_ok=True)
    stage.run(ctx)
    missing = [path for path in stage.outputs(config) if not (ctx.staging / path).is_file()]
    assert not missing
    return ctx


def output(ctx: StageContext, path: str) -> Any:
    """Read an output back by its codec."""
    return artefact(path).codec.read(ctx.staging / path)


def output_bytes(ctx: StageContext) -> dict[str, bytes]:
    """Every output's bytes, to compare two runs."""
    return {path: (ctx.staging / path).read_bytes() for path in sorted(ctx.output_paths)}
