"""How much an encoder's vectors say by themselves: neighbours' votes on the validation proteins of a finished run.

    python -m benchmarks.encoder_knn --run out/quality-medium --encoder NAME=WEIGHTS [--encoder ...]

Prints the weighted Fmax of the embedding KNN, all else equal, for the amino-acid composition (20 shares), for the
run's own vectors, and for each encoder given (such as `esm2_small=out/encoder` or `esm2_small=random-init(0)`). The
fit proteins are the reference and test proteins are not scored. An encoder with weights of its own is held to two
gates in each aspect: above the composition, and above every encoder that was given with random weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from benchmarks.gates import Gate, report
from services.train.evaluation import protein_curves
from services.train.models import MODELS
from services.train.models.base import FitContext, TrainingData
from services.train.models.inputs import load_splits, load_training_data
from services.train.quality.measure import reading_context
from services.train.stages import stage_09_submission as submission
from shared.artefacts import artefact
from shared.config import Config
from shared.config.embed import EncoderConfig
from shared.logs import Logger
from shared.manifest import load_manifest
from shared.models.scoring import IDENTITY
from shared.nn.encoders import load_encoder
from shared.ontology import ASPECTS

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
COMPOSITION = "composition"
Vectors = npt.NDArray[np.floating]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_knn", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=WEIGHTS")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    chosen = parser.parse_args(arguments)
    found = measure(chosen.run, chosen.encoder, chosen.device)
    for name, figures in found.items():
        print(f"{name:40s} " + " ".join(f"{aspect} {figures[aspect]:.4f}" for aspect in ASPECTS))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return report(gates(found))


def measure(run: Path, encoders: Sequence[str], device: str = "cpu") -> dict[str, dict[str, float]]:
    """Kind of vector -> aspect -> weighted Fmax on the validation proteins."""
    prepared = submission.prepare(reading_context(load_manifest(run / "manifest.json"), run))
    config = Config.model_validate_json((run / "config_resolved.json").read_bytes())

    def read(path: str) -> object:
        return artefact(path).codec.read(run / path)

    terms = read("features/level1_terms.json")["terms"]  # type: ignore[index]
    data = load_training_data(read, terms)
    splits = load_splits(read, data.features.ids)
    found = {}
    for name, vectors in kinds_of_vectors(data, encoders, device):
        own = replace(data, features=replace(data.features, dense={"esm2": vectors}))
        context = FitContext(
            config.level1, config.transform, device, config.threads, run / "read-only", Logger(None, quiet=True)
        )
        knn = MODELS["knn"].fit(own, splits.fit_rows, context)
        logits = np.zeros((len(data.features), len(terms)), np.float16)
        rows = splits.validation_rows
        logits[rows] = knn.logits(own.features, rows)
        model = submission.Model(name, tuple(terms), IDENTITY, {"train": logits, "test": logits})
        blocks = [submission.score(prepared, model, "train", block) for block in submission.blocks(rows)]
        scores = sparse.csr_array(sparse.vstack(blocks, format="csr"))
        truth = prepared.parts["train"].truth[rows]
        curves = protein_curves(scores, truth, prepared.ontology, prepared.information)
        found[name] = {aspect: float(curves[aspect].fmax()[0]) for aspect in ASPECTS}
    return found


def gates(found: Mapping[str, Mapping[str, float]]) -> list[Gate]:
    """What every encoder with weights of its own has to be above, per aspect."""
    learned = [name for name in found if "=" in name and not is_random(name)]
    bars = [name for name in found if name == COMPOSITION or is_random(name)]
    return [
        Gate(
            f"{name} above {bar} in {aspect}",
            found[name][aspect] > found[bar][aspect],
            f"{found[name][aspect]:.4f}, {found[bar][aspect]:.4f}",
        )
        for name in learned
        for bar in bars
        for aspect in ASPECTS
    ]


def is_random(name: str) -> bool:
    """True for an encoder that was given with random weights."""
    return "=random-init(" in name


def kinds_of_vectors(data: TrainingData, encoders: Sequence[str], device: str) -> Iterator[tuple[str, Vectors]]:
    """What is compared: the composition, what the run has, and the encoders that were asked for."""
    yield COMPOSITION, composition(data.features.sequences)
    for name, vectors in data.features.dense.items():
        if vectors.shape[1]:
            yield f"run: {name}", np.asarray(vectors)
    for item in encoders:
        name, _, weights = item.partition("=")
        encoder = load_encoder(EncoderConfig(name=name, weights=weights or "random-init(0)"), device)
        yield item, encoder.embed(data.features.sequences).astype(np.float16)


def composition(sequences: Sequence[str]) -> Vectors:
    """Share of each amino acid [protein, 20], float32."""
    codes = [np.frombuffer(sequence.encode("ascii"), np.uint8) for sequence in sequences]
    counts = np.stack([np.bincount(code, minlength=128)[[ord(letter) for letter in LETTERS]] for code in codes])
    shares: Vectors = (counts / np.maximum(1, counts.sum(1, keepdims=True))).astype(np.float32)
    return shares


if __name__ == "__main__":
    raise SystemExit(main())
