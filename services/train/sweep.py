"""Run a config at every point of a grid, one after another.

`<paths.out>/sweeps/<tag>/` holds sweep.json (what the sweep is), point-NNN.json (the overrides of one
point, as `run --overrides` takes them) and results.json with results.tsv, rewritten after each point.
Points are ordinary runs: the same command resumes, and finished ones are skipped.

The table shows validation figures: whoever chooses by test figures has none left to report.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shared.atomic import write_bytes, write_json
from shared.config.files import merge
from shared.config.load import LoadedConfig, config_digest, nest
from shared.digests import digest_of
from shared.errors import UsageError

SIGNALS = (130, 143)  # exit codes of an interrupted or terminated run
HEADLINE = ("fmax_w/MF", "fmax_w/BP", "fmax_w/CC")
STACKER = "gcn"
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# overrides file -> the config at that point; None: the base
Load = Callable[[Path | None], LoadedConfig]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the grid; `file` holds its overrides."""

    values: dict[str, Any]  # dotted key -> value
    file: Path
    run_id: str


@dataclass(frozen=True, slots=True)
class Result:
    """How a point's run ended, and its validation figures; none where it failed."""

    point: Point
    exit_code: int
    metrics: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "values": self.point.values,
            "file": self.point.file.name,
            "run_id": self.point.run_id,
            "exit_code": self.exit_code,
            "metrics": self.metrics,
        }


def parse_grid(items: Iterable[str]) -> dict[str, list[Any]]:
    """`a.b=1,2` -> `{"a.b": [1, 2]}`; values are YAML, so `[1, 2], [3]` are two lists.

    Raises:
        UsageError: no key, no value, or a key twice.
    """
    grid: dict[str, list[Any]] = {}
    for item in items:
        key, separator, text = item.partition("=")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            values = None
        if not separator or not key.strip() or not values or key.strip() in grid:
            raise UsageError(f"--grid {item!r}", remedy="Once per key, as --grid level1.mlp.epochs=4,8")
        grid[key.strip()] = values
    if not grid:
        raise UsageError("no --grid", remedy="For example --grid level1.mlp.epochs=4,8")
    return grid


def prepare(grid: Mapping[str, Sequence[Any]], load: Load, tag: str | None) -> tuple[Path, list[Point]]:
    """Write the sweep's folder; every point is resolved before any is run.

    Args:
        grid: dotted key -> its values.
        load: resolves the config at a point.
        tag: the folder's name; None makes one from the config and the grid.

    Returns:
        the folder and its points, the last key varying fastest.

    Raises:
        UsageError: two points are the same run, or the tag is no name or another sweep's.
        ConfigError: a point is no valid config.
    """
    if tag is not None and not TAG.fullmatch(tag):
        raise UsageError(f"--tag {tag!r}", remedy="Letters, digits, dot, dash and underscore")
    base = load(None)
    identity = {"config": config_digest(base.config), "run_id": base.config.run_id, "grid": dict(grid)}
    name = tag or f"{base.stem}-{digest_of('sweep', identity)[:12]}"
    folder = base.config.paths.out / "sweeps" / name
    _claim(folder, identity)
    points = []
    for number, values in enumerate(itertools.product(*grid.values())):
        chosen = dict(zip(grid, values, strict=True))
        overrides: dict[str, Any] = (
            {} if base.config.run_id is None else {"run_id": f"{base.config.run_id}-{number:03d}"}
        )
        for key, value in chosen.items():
            merge(overrides, nest(key.split("."), value))
        file = folder / f"point-{number:03d}.json"
        write_json(file, overrides)
        points.append(Point(chosen, file, load(file).run_id))
    _check_distinct(points)
    return folder, points


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    record = folder / "sweep.json"
    if record.is_file() and json.loads(record.read_bytes()) != json.loads(json.dumps(identity)):
        raise UsageError(
            f"{folder.name} is the tag of another sweep", where=str(record), remedy="Give another --tag, or remove it"
        )
    write_json(record, identity)


def _check_distinct(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        if point.run_id in seen:
            raise UsageError(
                f"{point.values} and {seen[point.run_id].values} are the same run",
                where="--grid",
                remedy="Vary keys that decide a run: not paths, device, store or logs, and no value twice",
            )
        seen[point.run_id] = point


def run_all(folder: Path, points: Sequence[Point], command: Sequence[str], out: Path) -> list[Result]:
    """Run every point and keep the table up to date; a failed point does not stop the others, a signal does.

    Args:
        folder: of the sweep.
        points: in their order.
        command: `run` with everything but `--overrides`.
        out: `paths.out`.
    """
    results: list[Result] = []
    for number, point in enumerate(points, start=1):
        print(f"[{number}/{len(points)}] {point.run_id}: {_label(point)}", file=sys.stderr, flush=True)
        code = _run([*command, "--overrides", str(point.file)])
        results.append(Result(point, code, read_metrics(out / point.run_id) if code == 0 else {}))
        write_json(folder / "results.json", [result.to_json() for result in results])
        write_bytes(folder / "results.tsv", table(results).encode())
        if code in SIGNALS:
            break
    return results


def _run(command: Sequence[str]) -> int:
    """A run in a process of its own, because the thread count is fixed once per process."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def read_metrics(run_folder: Path) -> dict[str, float | None]:
    """The stacker's figures on validation proteins."""
    document = json.loads((run_folder / "metrics.json").read_bytes())
    found: dict[str, float | None] = document["val"].get(STACKER, {})
    return found


def table(results: Sequence[Result]) -> str:
    """Tab-separated: the grid's keys, the headline figures, the run; one line per point."""
    keys = list(results[0].point.values) if results else []
    lines = ["\t".join([*keys, *HEADLINE, "run_id", "exit_code"])]
    for result in results:
        values = [json.dumps(result.point.values[key]) for key in keys]
        figures = [_figure(result.metrics.get(name)) for name in HEADLINE]
        lines.append("\t".join([*values, *figures, result.point.run_id, str(result.exit_code)]))
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _label(point: Point) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in point.values.items())
