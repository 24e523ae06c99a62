"""How time, memory and disk grow with proteins: synthetic proteins through the nine stages, embeddings drawn at random.

    python -m benchmarks.bench_scale [--proteins N ...] [--work out/bench/scale] [--out benchmarks/results/scale.json]

Every stage runs in a process of its own, so that its peak memory is its own. Stage 6 is replaced by one that draws
vectors around a centre per family. Nine tenths of the proteins are train, one tenth is test. Sizes that are wholly
in the output are kept; `--again` measures them anew. Finished stages of an interrupted size are skipped.

Two limits are judged, and the last line is PASS n/m or FAIL n/m: what the stage and its child processes hold at once
may not exceed `--limit-gb`, and no stage may be silent for more than a minute. The first is also imposed: the kernel
refuses a process more than that of data (RLIMIT_DATA), so that a stage which needs more ends in an error.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import synthetic
from benchmarks.bench import machine
from benchmarks.gates import Gate, report
from services.train.cli import THREAD_VARIABLES
from shared.atomic import write_json

SIZES = (1000, 10_000)
TERMS = 6000  # of the ontology; level1.max_terms of them are columns
STAGES = ("stage_01_parsed", "stage_03_tfidf_text", "stage_07_level1_preds", "stage_08_stacker", "stage_09_submission")
ESM2 = "stage_06_embeddings_esm2"
SETTINGS: dict[str, Any] = {
    "embed": {"t5": None, "esm2": {"name": "esm2_t6_8M"}},
    "split": {"folds": 3},
    "homology": {"sensitivity": 1.0},
    "tfidf": {"max_features": 300},
    "level1": {
        "models": ["homology", "taxon", "knn", "logreg", "mlp"],
        "logreg": {"components": 128, "iterations": 10},
        "mlp": {"epochs": 1, "hidden": 256},
    },
    "stacker": {"epochs": 1, "layers": 1, "proteins_per_epoch": 1000, "base_proteins": 1000},
    "submission": {"max_terms_per_protein": 500},
}
KILOBYTE, MEGABYTE, GIGABYTE = 1024, 1024 * 1024, 1024 * 1024 * 1024
SAMPLE_SECONDS = 0.2
LIMIT_GB = 8.0
LONGEST_SILENCE = 60.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sizes, one after the other, and write after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_scale", description="Growth with proteins.")
    parser.add_argument("--proteins", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--work", type=Path, default=Path("out/bench/scale"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-gb", type=float, default=LIMIT_GB, help="memory that no stage may exceed")
    parser.add_argument("--estimate", type=int, default=10_000_000, metavar="PROTEINS", help="what to extrapolate to")
    parser.add_argument("--max-terms", type=int, default=1500, help="columns: level1.max_terms")
    parser.add_argument("--again", action="store_true", help="measure sizes that are in the output too")
    parser.add_argument("--stage", nargs="+", metavar=("CONFIG", "STAGE"), help="stages of one size; used by itself")
    chosen = parser.parse_args(arguments)
    if chosen.stage:
        limit = round(chosen.limit_gb * GIGABYTE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # of this process, and of each child
        print(json.dumps(measure_stages(Path(chosen.stage[0]), chosen.stage[1:])))
        return 0
    chosen_settings = {**SETTINGS, "level1": {**SETTINGS["level1"], "max_terms": chosen.max_terms}}
    settings = {**chosen_settings, "terms": TERMS, "threads": chosen.threads, "limit_gb": chosen.limit_gb}
    before = json.loads(chosen.out.read_bytes()) if chosen.out.is_file() else {}
    sizes = before["sizes"] if before.get("settings") == settings else {}  # others compare with nothing
    for count in chosen.proteins:
        if set(STAGES) <= set(sizes.get(str(count), ())) and not chosen.again:
            continue
        folder = chosen.work / str(count)
        sizes[str(count)] = measure_size(count, folder, chosen_settings, chosen.threads, chosen.limit_gb)
        ordered = dict(sorted(sizes.items(), key=lambda item: int(item[0])))
        document = {"settings": settings, "machine": machine(), "sizes": ordered, "exponents": exponents(ordered)}
        write_json(chosen.out, document)
    document = json.loads(chosen.out.read_bytes())
    print(table(document))
    if document["exponents"]:
        print(f"\n{estimate(document, chosen.estimate)}")
    return report(judged(document))


def measure_size(
    count: int, folder: Path, settings: Mapping[str, Any], threads: int, limit_gb: float
) -> dict[str, Any]:
    """Every stage of one size."""
    config = folder / "config.json"
    if not config.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_inputs(folder, count, settings, threads)
    known = folder / "measured.json"
    measured: dict[str, Any] = json.loads(known.read_bytes()) if known.is_file() else {}
    left = [stage for stage in stage_ids() if stage not in measured]
    # Each reported stage in a process of its own; what lies between two of them shares one.
    for stages in (
        group for alone, every in itertools.groupby(left, STAGES.__contains__) for group in _cut(alone, every)
    ):
        shutil.rmtree(folder / "out/scale/.work", ignore_errors=True)  # an interrupted stage starts afresh
        command = [sys.executable, "-m", "benchmarks.bench_scale", "--limit-gb", str(limit_gb)]
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
        log = folder / f"{stages[0]}.log"
        found, silence = overheard([*command, "--stage", str(config), *stages], environment, log)
        measured |= {stage: {**one, "silence": silence} for stage, one in found.items()}
        write_json(known, measured)
        for stage in stages:
            print(f"{count} proteins, {stage}: {measured[stage]}", flush=True)
    return {stage: measured[stage] for stage in STAGES if stage in measured}


def _cut(alone: bool, stages: Iterable[str]) -> list[list[str]]:
    return [[stage] for stage in stages] if alone else [list(stages)]


def overheard(command: Sequence[str], environment: Mapping[str, str], log: Path) -> tuple[Any, float]:
    """Run stages, pass on and keep what they say; their own figures, and the most seconds between two lines.

    Raises:
        SystemExit: it failed.
    """
    longest, heard = 0.0, math.inf  # what it imports before its first line is not the stage's silence
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child,
        log.open("w", encoding="utf-8") as kept,
    ):
        if child.stdout is None or child.stderr is None:
            raise AssertionError("both were asked for")
        for line in child.stderr:
            now = time.monotonic()
            longest, heard = max(longest, now - heard), now
            kept.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {line}")
            kept.flush()
            print(line, end="", file=sys.stderr, flush=True)
        said = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}; see {log}")
    return json.loads(said.splitlines()[-1]), round(max(longest, time.monotonic() - heard), 1)


def write_inputs(folder: Path, count: int, settings: Mapping[str, Any], threads: int) -> None:
    """Files and config of one size; the config comes last."""
    folder.mkdir(parents=True)
    dag = synthetic.make_dag(TERMS)
    synthetic.write_obo(folder / "go.obo", dag)
    ids, residues, stated = (
        synthetic.protein_ids(count),
        synthetic.sequences(count),
        synthetic.labels(count, dag),
    )
    chosen = np.random.default_rng(1).random(count) < 0.1
    parts = {"test": np.flatnonzero(chosen), "train": np.flatnonzero(~chosen)}
    for part, rows in parts.items():
        names = [ids[row] for row in rows]
        synthetic.write_fasta(folder / f"{part}.fasta", names, [residues[row] for row in rows])
        synthetic.write_terms(folder / f"{part}_terms.tsv", names, [stated[row] for row in rows], dag)
    lines = [f"{name}\t{text}\n" for name, text in zip(ids, synthetic.texts(count), strict=True)]
    (folder / "text.tsv").write_text("EntryID\ttext\n" + "".join(lines))
    files = {
        f"{part}_{kind}": f"{part}{end}"
        for part in parts
        for kind, end in (("fasta", ".fasta"), ("terms", "_terms.tsv"))
    }
    data = {key: str((folder / name).resolve()) for key, name in {**files, "obo": "go.obo", "text": "text.tsv"}.items()}
    paths = {"out": str((folder / "out").resolve())}
    write_json(
        folder / "config.json", {"data": data, "paths": paths, "run_id": "scale", "threads": threads, **settings}
    )


def stage_ids() -> list[str]:
    """All stages in order."""
    from services.train.pipeline import PIPELINE  # noqa: PLC0415 - torch only where a stage runs

    return [stage.id for stage in PIPELINE]


def measure_stages(config: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run some stages in this process: seconds, memory with its children, bytes written of each."""
    from services.train.pipeline import PIPELINE  # noqa: PLC0415 - after the thread count is fixed
    from services.train.runner import Runner, Selection  # noqa: PLC0415
    from shared.config.load import load_config  # noqa: PLC0415
    from shared.logs import Logger  # noqa: PLC0415
    from shared.nn.device import resolve_device  # noqa: PLC0415
    from shared.nn.seeding import make_deterministic  # noqa: PLC0415
    from shared.stores import open_store  # noqa: PLC0415

    loaded = load_config(config, environment=os.environ)
    settings = loaded.config
    make_deterministic(settings.threads)
    watches = {name: Watch() for name in names}
    stages = [replace(stage, run=random_vectors) if stage.id == ESM2 else stage for stage in PIPELINE]
    stages = [replace(s, run=watches[s.id].around(s.run)) if s.id in watches else s for s in stages]
    folder = settings.paths.out / loaded.run_id
    store = open_store(settings.store.url, settings.paths.out / "cache", settings.store)
    runner = Runner(stages, settings, folder, store, Logger(None, quiet=False), device=str(resolve_device("cpu")))
    found = {}
    for name, watch in watches.items():
        runner.run(Selection(only=name))
        if watch.seconds == 0:
            raise SystemExit(f"{name} was not run: {config} is done already; remove its folder")
        written = sum((folder / output.path).stat().st_size for output in runner.checkpoints[name].outputs)
        found[name] = {**watch.found(), "disk_mb": round(written / MEGABYTE, 2)}
    return found


class Watch:
    """Time and memory of one stage."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0
        self.before = self.own = self.together = self.held = 0.0
        self._stop = threading.Event()

    def around(self, run: Any) -> Any:
        """`run` with a thread that samples memory beside it."""

        def watched(ctx: Any) -> None:
            self.before = anonymous(memory(os.getpid()))
            sampler = threading.Thread(target=self._sample, daemon=True)
            sampler.start()
            started, cpu = time.perf_counter(), sum(os.times()[:4])
            try:
                run(ctx)
            finally:
                self.seconds = time.perf_counter() - started
                self.cpu = sum(os.times()[:4]) - cpu
                self._stop.set()
                sampler.join()

        return watched

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            each = [memory(process) for process in family(os.getpid())]
            self.own = max(self.own, anonymous(each[0]))
            self.held = max(self.held, sum(map(anonymous, each)))
            self.together = max(self.together, sum(one["VmRSS"] for one in each))

    def found(self) -> dict[str, float]:
        """Seconds and MB.

        `anonymous_mb`, `held_mb`: what no file backs, of this process, and with its children at one moment.
        `resident_mb`: all that they have in memory at one moment, mapped files and what they share counted for each.
        """
        found = {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu,
            "before_mb": self.before,
            "anonymous_mb": max(self.own, self.before),
            "held_mb": max(self.held, self.before),
            "resident_mb": max(self.together, memory(os.getpid())["VmHWM"]),
        }
        return {key: round(value, 2) for key, value in found.items()}


def family(process: int) -> list[int]:
    """A process and what it started, in turn; those that ended meanwhile are left out."""
    found = [process]
    for one in found:  # grows while it is read
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(map(int, task.read_text().split()))
    return found


def memory(process: int) -> dict[str, float]:
    """MB of a process by the fields of /proc/<pid>/status; zeros for one that has ended."""
    found = dict.fromkeys(("VmRSS", "VmHWM", "RssAnon", "RssShmem"), 0.0)
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) / KILOBYTE
    return found


def anonymous(found: Mapping[str, float]) -> float:
    """MB that no file backs, and the system can therefore not drop."""
    return found["RssAnon"] + found["RssShmem"]


def random_vectors(ctx: Any) -> None:
    """In place of stage 6: noise around a centre per kind and family; the encoder's record is a real one."""
    from shared.config import EmbedConfig  # noqa: PLC0415
    from shared.nn.encoders import load_encoder  # noqa: PLC0415

    config = ctx.settings(EmbedConfig).esm2
    encoder = load_encoder(config, "cpu")
    kinds = np.random.default_rng(0).standard_normal((synthetic.KINDS, encoder.dim))
    for seed, part in enumerate(("train", "test")):
        ids = ctx.read(f"parsed/{part}_seq.feather")["id"].tolist()
        rows = ctx.create_array(f"features/{part}_embeds_esm2.npy", (len(ids), encoder.dim), "<f2")
        noise = np.random.default_rng(seed)
        for row, name in enumerate(ids):
            family = int(name[1:]) // synthetic.FAMILY
            kind = int(synthetic.kind_of(np.array([family]))[0])
            centre = kinds[kind] + 0.5 * np.random.default_rng(family).standard_normal(encoder.dim)
            rows[row] = (centre + 0.7 * noise.standard_normal(encoder.dim)).astype(np.float16)
    ctx.write("features/encoder_esm2.json", encoder.describe())


def exponents(sizes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Slope of log(quantity) over log(proteins) per stage, between neighbouring sizes; memory above its start."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for small, large in itertools.pairwise(sizes):
        step, few, many = math.log(int(large) / int(small)), sizes[small], sizes[large]

        def slope(first: float, second: float, step: float = step) -> float | None:
            return round(math.log(second / first) / step, 2) if first > 0 and second > 0 else None

        found[f"{small}-{large}"] = {
            stage: {
                "seconds": slope(few[stage]["cpu_seconds"], many[stage]["cpu_seconds"]),
                "memory": slope(grown(few[stage]), grown(many[stage])),
                "disk": slope(few[stage]["disk_mb"], many[stage]["disk_mb"]),
            }
            for stage in STAGES
            if stage in few and stage in many
        }
    return found


def grown(found: Mapping[str, float]) -> float:
    """MB of memory that the stage and its children held beyond what was there before."""
    return max(found["held_mb"] - found["before_mb"], 0.01)


def judged(document: Mapping[str, Any]) -> list[Gate]:
    """What is promised of each stage and size, and whether it holds."""
    limit = document["settings"]["limit_gb"]
    gates = []
    for count, stages in document["sizes"].items():
        for stage, one in stages.items():
            name = f"{stage} of {int(count):,}"
            held, silence = one["resident_mb"] / KILOBYTE, one["silence"]
            gates.append(Gate(f"{name}: memory", held <= limit, f"{held:.2f} GB of {limit:g}"))
            gates.append(
                Gate(f"{name}: progress", silence <= LONGEST_SILENCE, f"{silence:.0f} s of {LONGEST_SILENCE:.0f}")
            )
    return gates


def table(document: Mapping[str, Any]) -> str:
    """Markdown, as docs/performance.md has it."""
    lines = [
        "| stage | proteins | processor seconds | memory added, MB | resident at most, MB | written, MB | longest silence, s | limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    limit = document["settings"]["limit_gb"]
    for stage in STAGES:
        for count, found in document["sizes"].items():
            if stage not in found:
                continue
            one = found[stage]
            lines.append(
                f"| {stage} | {int(count):,} | {one['cpu_seconds']:.1f} | {grown(one):.0f} | {one['resident_mb']:.0f} "
                f"| {one['disk_mb']:.1f} | {one['silence']:.0f} "
                f"| {'PASS' if one['resident_mb'] <= limit * KILOBYTE else 'FAIL'} |"
            )
    lines += ["", "| stage | proteins | exponent of time | of memory added | of disk |", "|---|---|---|---|---|"]
    for stage in STAGES:
        for sizes, found in document["exponents"].items():
            if stage in found:
                one = found[stage]
                lines.append(f"| {stage} | {sizes} | {one['seconds']} | {one['memory']} | {one['disk']} |")
    return "\n".join(lines)


def estimate(document: Mapping[str, Any], proteins: int) -> str:
    """What `proteins` would cost by the largest size and the last exponents, which are at least 1 for time and disk."""
    count, measured = list(document["sizes"].items())[-1]
    powers = list(document["exponents"].values())[-1]
    ratio = proteins / int(count)
    lines = [
        f"| stage, for {proteins:,} proteins | processor hours | memory added, GB | written, GB |",
        "|---|---|---|---|",
    ]
    for stage in STAGES:
        if stage not in powers:
            continue
        one, power = measured[stage], powers[stage]
        hours = one["cpu_seconds"] * ratio ** max(1.0, power["seconds"] or 1.0) / 3600
        memory = grown(one) * ratio ** max(0.0, power["memory"] or 0.0) / KILOBYTE
        disk = one["disk_mb"] * ratio ** max(1.0, power["disk"] or 1.0) / KILOBYTE
        lines.append(f"| {stage} | {hours:,.1f} | {memory:,.1f} | {disk:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
