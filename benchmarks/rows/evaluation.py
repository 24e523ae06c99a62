"""CAFA evaluation from files to Fmax, weighted Fmax and Smin beside cafaeval; each run is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import synthetic
from benchmarks.gates import Gate
from benchmarks.rows.base import Comparison

PROTEINS, TERMS, EACH = 5000, 5000, 35
TOLERANCE = 1e-12
SIDES = ("gowhy", "cafaeval")


@dataclass(frozen=True, slots=True)
class Task:
    """One line of the table."""

    name: str
    namespaces: Sequence[str]
    part_of: float
    mode: str
    least: float
    memory: float | None  # our peak by cafaeval's, at most


TASKS = (
    Task("evaluation, one namespace, max", ("biological_process",), 0.0, "max", 100.0, 1 / 3),
    Task("evaluation, all namespaces, part_of, fill", tuple(synthetic.ROOTS), 0.1, "fill", 40.0, None),
)


def compare(rounds: int) -> list[Comparison]:
    """Both tasks."""
    return [measured(task, rounds) for task in TASKS]


def measured(task: Task, rounds: int) -> Comparison:
    """Interleaved runs of both sides on the same files."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as temporary:
        folder = Path(temporary)
        write_files(folder, task, PROTEINS, TERMS)
        write_files(folder / "tiny", task, 50, 90)
        run("gowhy", folder, task.mode)  # from here on compiled code comes from its cache, and no compiler is in memory
        for _ in range(rounds):
            for side in SIDES:
                runs[side].append(run(side, folder, task.mode))
    ours, theirs = ([one["seconds"] for one in runs[side]] for side in SIDES)
    share = max(one["peak_mb"] for one in runs["gowhy"]) / min(one["peak_mb"] for one in runs["cafaeval"])
    memory = Gate("memory", task.memory is None or share <= task.memory, f"{share:.2f} of the peer's")
    return Comparison(
        name=task.name,
        peer="cafaeval",
        sizes=f"{PROTEINS} x {TERMS}",
        least=task.least,
        ours=ours,
        theirs=theirs,
        difference=difference(runs["gowhy"][0]["found"], runs["cafaeval"][0]["found"]),
        tolerance=TOLERANCE,
        measure="relative difference",
        also=(memory,),
    )


def run(side: str, folder: Path, mode: str) -> dict[str, Any]:
    """One run's record."""
    command = [sys.executable, "-m", "benchmarks.peers.evaluation_run", side, str(folder), mode]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest relative difference of any figure; infinite where the namespaces differ."""
    if set(ours) != set(theirs):
        return float("inf")
    pairs = [(ours[name][key], theirs[name][key]) for name in theirs for key in theirs[name]]
    return float(max(abs(a - b) / max(abs(b), 1e-300) for a, b in pairs))


def write_files(folder: Path, task: Task, proteins: int, terms: int) -> None:
    """Ontology, truth, predictions with ties at thresholds, and accretion; every twentieth protein has no prediction."""
    rng = np.random.default_rng(5)
    (folder / "pred").mkdir(parents=True)
    dag = synthetic.make_dag(terms, namespaces=task.namespaces)
    synthetic.write_obo(folder / "go.obo", dag, part_of=task.part_of)
    size = len(dag.ids)
    bits = rng.gamma(2, 1.5, size) * (rng.random(size) > 0.1)
    (folder / "ia.tsv").write_text("".join(f"{term}\t{bit}\n" for term, bit in zip(dag.ids, bits, strict=True)))
    with (folder / "truth.tsv").open("w") as truth, (folder / "pred/p.tsv").open("w") as predicted:
        for protein in range(proteins):
            true = rng.integers(1, size, max(1, rng.poisson(5)))
            truth.writelines(f"P{protein}\t{dag.ids[term]}\n" for term in set(true.tolist()))
            if protein % 20 == 7:
                continue
            found = set(rng.integers(1, size, EACH).tolist()) | set(true[rng.random(len(true)) < 0.6].tolist())
            for term in sorted(found):
                score = rng.beta(3, 2) if term in true else rng.beta(1, 4)
                text = f"{score:.3f}" if protein % 2 else f"{score:.2f}"
                if float(text) > 0:
                    predicted.write(f"P{protein}\t{dag.ids[term]}\t{text}\n")
