"""`make quality`: run a dataset, write its quality page, and hold the figures to gates.

    python -m benchmarks.quality --data medium|tiny [--preset NAME] [--ablations] [--set A.B=C]

The run is `out/quality-<data>`, with `-<preset>` behind it where one is named; finished stages are skipped.
`--ablations` also runs it once per modality without that modality. The last line is `PASS n/m`, or `FAIL n/m: names` with exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gates import Gate, report
from shared.config.files import preset_names

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"
ASPECTS = ("MF", "BP", "CC")
OURS, NAIVE = "gcn", "naive"
LEAST_TEST = {"medium": {"MF": 0.44, "BP": 0.26, "CC": 0.45}}  # without downloaded weights
GOALS = {"medium": {"MF": 0.47, "BP": 0.27, "CC": 0.46}}
LARGEST_ECE = 0.05
BASELINES = {"medium": {"mmseqs_knn": "baselines/medium/pred_mmseqs_knn.tsv.gz"}, "tiny": {}}


@dataclass(frozen=True, slots=True)
class Ablation:
    """What a run without a modality leaves out."""

    models: frozenset[str] = frozenset()  # that would read nothing else
    keys: tuple[str, ...] = ()

    def sets(self, models: Sequence[str]) -> list[str]:
        """Values for `--set` beside a run with these level-1 models; none where it has nothing of the modality."""
        left = [name for name in models if name not in self.models]
        if self.models and len(left) == len(models):
            return []
        return [*self.keys, *([f"level1.models={json.dumps(left)}"] if self.models else [])]


ABLATIONS: Mapping[str, Ablation] = {
    "esm2": Ablation(keys=("embed.esm2=null",)),
    "t5": Ablation(keys=("embed.t5=null",)),
    "homology": Ablation(frozenset({"homology"}), ("submission.rare_terms=none",)),
    "sequence": Ablation(frozenset({"cnn"})),
    "taxon": Ablation(
        frozenset({"taxon"}), ("level1.min_taxon_proteins=1000000000", "level1.homology.taxon_weight=1000000000")
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, measure, judge; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="Quality of a dataset's run.")
    parser.add_argument("--data", choices=sorted(BASELINES), default="medium")
    parser.add_argument("--preset", choices=preset_names(), help="laid over the config; configs/presets/")
    parser.add_argument("--ablations", action="store_true", help="also run without each modality in turn")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A.B=C")
    parser.add_argument("--out", default="out")
    chosen = parser.parse_args(arguments)
    run_id = "-".join(filter(None, ["quality", chosen.data, chosen.preset]))
    sets = [f"paths.out={chosen.out}", *chosen.sets]

    def run(name: str, keys: Sequence[str] = ()) -> Path:
        return train(chosen.data, chosen.preset, name, [*sets, *keys], chosen.out)

    manifest = run(run_id)
    ablations = {}
    if chosen.ablations:
        models = json.loads((manifest.parent / "config_resolved.json").read_bytes())["level1"]["models"]
        left_out = {name: ablation.sets(models) for name, ablation in ABLATIONS.items()}
        ablations = {name: run(f"{run_id}-without-{name}", keys) for name, keys in left_out.items() if keys}
    document = measure(manifest, chosen.data, ablations)
    print(f"page: {manifest.parent / 'quality' / 'index.html'}")
    return report(list(gates(document, chosen.data)))


def train(data: str, preset: str | None, run_id: str, sets: Sequence[str], out: str) -> Path:
    """Bring the run up to date; its manifest."""
    options = [word for key in (f"run_id={run_id}", *sets) for word in ("--set", key)]
    options += ["--preset", preset] if preset else []
    call(["services.train", "run", "--config", f"configs/{data}.yaml", *options])
    return REPOSITORY / out / run_id / "manifest.json"


def measure(manifest: Path, data: str, ablations: Mapping[str, Path]) -> dict[str, Any]:
    """The quality document, and the page beside it."""
    root = Path(os.environ.get("GOWHY_DATA") or REPOSITORY.parent / "shared" / "data")
    named = [word for name, path in BASELINES[data].items() for word in ("--baseline", f"{name}={root / path}")]
    named += [word for name, path in ablations.items() for word in ("--ablation", f"{name}={path}")]
    call(["services.train", "quality", "--quiet", "--from-manifest", str(manifest), *named])
    document: dict[str, Any] = json.loads((manifest.parent / "quality" / "quality.json").read_bytes())
    return document


def call(module: Sequence[str]) -> None:
    """Run a module of this repository with this interpreter; its output is ours, its failure too."""
    done = subprocess.run([sys.executable, "-m", *module], cwd=REPOSITORY, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def gates(document: Mapping[str, Any], data: str) -> Iterator[Gate]:
    """Every condition, with what was found."""
    test = document["parts"]["test"]
    for aspect in ASPECTS:
        share = test["share_with_a_term"][aspect]
        yield Gate(f"test-{aspect}-covered", share == 1.0, f"{share:.2%} of the proteins have a term of at least .01")
    if data in LEAST_TEST:
        yield from validation_gates(document["parts"]["val"])
        yield from floor_gates(test, data)
    golden = GOLDEN / f"quality_{data}.json"
    if golden.is_file():
        yield from golden_gates(document, json.loads(golden.read_bytes()))


def validation_gates(val: Mapping[str, Any]) -> Iterator[Gate]:
    """The stacker beats its best level-1 model, and its scores are probabilities."""
    for aspect in ASPECTS:
        level1 = {name: of[aspect]["value"] for name, of in val["fmax_w"].items() if name not in (OURS, NAIVE)}
        best = max(level1, key=lambda name: level1[name])
        ours = val["fmax_w"][OURS][aspect]["value"]
        yield Gate(
            f"val-{aspect}-above-level1", ours >= level1[best], f"stacker {ours:.3f}, best {best} {level1[best]:.3f}"
        )
        error = val["reliability"][aspect]["ece"]
        yield Gate(f"val-{aspect}-ece", error is not None and error <= LARGEST_ECE, f"{error:.3f} of {LARGEST_ECE}")


def floor_gates(test: Mapping[str, Any], data: str) -> Iterator[Gate]:
    """Floors on the test proteins, and the better baseline beaten beyond chance."""
    for aspect in ASPECTS:
        ours, floor, goal = test["fmax_w"][OURS][aspect]["value"], LEAST_TEST[data][aspect], GOALS[data][aspect]
        yield Gate(
            f"test-{aspect}-floor", ours >= floor, f"{ours:.3f} of {floor:.2f}; goal {goal:.2f}, gap {goal - ours:+.3f}"
        )
        baselines = {name: test["fmax_w"][name][aspect]["value"] for name in (*BASELINES[data], NAIVE)}
        better = max(baselines, key=lambda name: baselines[name])
        gap = test["stacker_minus"][better][aspect]
        found = f"above {better} by {gap['value']:.3f} ({gap['low']:.3f} to {gap['high']:.3f})"
        yield Gate(f"test-{aspect}-above-baseline", gap["low"] > 0, found)


def golden_gates(document: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]) -> Iterator[Gate]:
    """Weighted Fmax of the stacker within committed ranges: `<part>-<aspect>` -> [low, high]."""
    for key, (low, high) in ranges.items():
        part, aspect = key.split("-")
        value = document["parts"][part]["fmax_w"][OURS][aspect]["value"]
        yield Gate(f"golden-{key}", low <= value <= high, f"{value:.3f} in {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    raise SystemExit(main())
