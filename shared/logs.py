"""One logging helper for both services: JSON lines per step, CSV per epoch, the agreed metric keys.

Keys: loss/{train,val}; mae/{train,val}; pearson/per_head/<term or head>; mae/per_group/<taxon>;
fmax|fmax_w|smin|aupr|coverage|ece/<aspect>. The worker's keys start with `xai/`.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from shared.errors import UsageError

METRIC_KEY = re.compile(
    r"^(xai/[\w./:-]+|loss/(train|val)|mae/(train|val)|pearson/per_head/[\w:.-]+|mae/per_group/[\w:.-]+|(fmax|fmax_w|smin|aupr|coverage|ece)/(MF|BP|CC))$"
)


class Writer(Protocol):
    """Receives every record too; those in `shared.log_writers` implement this."""

    def step(self, record: Mapping[str, Any]) -> None:
        """One training step: the metrics by key, `time`, and what it is about (`stage`, `model`, `part`, ...)."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """One epoch: the metrics by key, `time`, `stage`, `model`, `fold` and `epoch`."""

    def close(self, finished: bool) -> None:
        """The run has ended; `finished` says whether it got to its end."""


class Logger:
    """Writes `steps.jsonl`, `epochs.csv` and `run.jsonl` in one folder.

    Args:
        folder: where the files are; None keeps nothing (predict, tests).
        writers: further receivers of the same records. One that fails is dropped with a warning: a lost
            connection must not end a run of hours.
    """

    EPOCH_FIELDS = ("time", "stage", "model", "fold", "epoch", "key", "value")

    def __init__(self, folder: Path | None, writers: tuple[Writer, ...] = (), quiet: bool = False) -> None:
        self.folder, self.quiet = folder, quiet
        # What helpers of a run say comes by other threads.
        self._writing, self._telling = threading.Lock(), threading.Lock()
        self.writers = list(writers)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if self.folder is not None:
            # One write per line, so that a killed run leaves at most one torn last line.
            with self._writing, (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, sort_keys=True, default=str) + "\n")

    def event(self, message: str, **fields: Any) -> None:
        """Something a person should see: printed, and kept in `run.jsonl`."""
        self._append("run.jsonl", {"time": time.time(), "message": message, **fields})
        if not self.quiet:
            detail = "".join(f" {name}={value}" for name, value in fields.items())
            print(f"{message}{detail}", file=sys.stderr, flush=True)

    def warning(self, message: str, **fields: Any) -> None:
        """Something that may make a result worse than the user thinks."""
        self.event(f"warning: {message}", **fields)

    def step(self, metrics: Mapping[str, float | None], **context: Any) -> None:
        """One training step's metrics."""
        check_keys(metrics)
        record = {"time": time.time(), **context, **{k: _finite(v) for k, v in metrics.items()}}
        self._append("steps.jsonl", record)
        self._tell(lambda writer: writer.step(record))

    def cost(self, stage: str, seconds: float, peak_bytes: int | None) -> None:
        """What a stage took from its beginning to its end; `plan` scales it."""
        self._append("costs.jsonl", {"stage": stage, "seconds": round(seconds, 3), "peak_bytes": peak_bytes})

    def epoch(
        self, metrics: Mapping[str, float | None], *, epoch: int, stage: str = "", model: str = "", fold: int | str = ""
    ) -> None:
        """One epoch's metrics, a CSV row per key."""
        check_keys(metrics)
        if self.folder is not None:
            path = self.folder / "epochs.csv"
            with self._writing, path.open("a", encoding="utf-8", newline="") as file:
                table = csv.writer(file, lineterminator="\n")
                if path.stat().st_size == 0:
                    table.writerow(self.EPOCH_FIELDS)
                now = f"{time.time():.3f}"
                table.writerows(
                    [now, stage, model, fold, epoch, key, "" if _finite(value) is None else value]
                    for key, value in metrics.items()
                )
        finite = {key: _finite(value) for key, value in metrics.items()}
        record = {"time": time.time(), "stage": stage, "model": model, "fold": fold, "epoch": epoch, **finite}
        self._tell(lambda writer: writer.epoch(record))

    def close(self, *, finished: bool) -> None:
        """Tell the writers that the run has ended."""
        self._tell(lambda writer: writer.close(finished))
        self.writers.clear()

    def _tell(self, message: Callable[[Writer], None]) -> None:
        for writer in tuple(self.writers):
            try:
                with self._telling:
                    message(writer)
            except Exception as error:  # noqa: BLE001 - whatever a tracking client raises
                if writer not in self.writers:  # another thread has said so
                    continue
                self.writers.remove(writer)
                name = type(writer).__name__
                self.warning(f"{name} failed and hears no more of this run; logs/ has everything", error=repr(error))


def check_keys(metrics: Mapping[str, float | None]) -> None:
    """Refuse a key that no dashboard would know.

    Raises:
        UsageError: a key is not one of the agreed ones.
    """
    for key in metrics:
        if not METRIC_KEY.match(key):
            raise UsageError(f"unknown metric key {key!r}", where="shared.logs.METRIC_KEY")


def series(record: Mapping[str, Any]) -> dict[str, float]:
    """A record's defined metrics by full name: what it is about, then the key, as `cnn/fold0/loss/train`."""
    fold = record.get("fold")
    about = [
        str(record.get("model") or record.get("stage") or ""),
        "" if fold in (None, "") else f"fold{fold}",
        str(record.get("part") or ""),
    ]
    prefix = "".join(f"{word}/" for word in about if word)
    return {f"{prefix}{k}": float(v) for k, v in record.items() if METRIC_KEY.match(k) and v is not None}


def milliseconds(record: Mapping[str, Any]) -> int:
    """When a record was made, since 1970."""
    return int(record["time"] * 1000)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
