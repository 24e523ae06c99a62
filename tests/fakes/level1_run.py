"""A run folder before stage 7 with a planted signal: labels, vectors, taxa and hits follow from hidden variables."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from services.train.models.base import FitContext, TrainingData
from services.train.models.inputs import load_features, load_training_data
from services.train.stage import StageContext
from services.train.stages.stage_07_level1_preds import STAGE
from shared.artefacts import artefact
from shared.config import Config, Level1Config, TransformConfig
from shared.logs import Logger
from shared.models.features import Features, IntArray
from shared.ontology import ASPECTS, Ontology
from tests.fakes.ontologies import make_ontology

LATENT = 6
TAXA = np.array([9606, 10090, 4932, 0])
QUICK = Level1Config.model_validate(
    {
        "min_positives": 5,
        "min_taxon_proteins": 10,
        "mlp": {"hidden": 32, "epochs": 10, "batch_size": 16, "learning_rate": 1e-2},
        "cnn": {"channels": 8, "kernel": 3, "layers": 1, "epochs": 1, "batch_size": 64},
        "knn": {"neighbours": 5},
        "gbdt": {"trees": 10, "min_pairs": 5, "background": 0.5},
        "logreg": {"l2": 1e-3},
    }
)


@dataclass
class Level1Run:
    """What the fake run folder is made from; change fields before `write`."""

    proteins: int = 240
    tests: int = 60
    terms_per_aspect: int = 8
    folds: int = 5
    seed: int = 3
    words: int = 0  # columns of the text
    ontology: Ontology = field(init=False)
    latent: dict[str, np.ndarray] = field(init=False)
    labels: dict[str, np.ndarray] = field(init=False)
    taxa: dict[str, np.ndarray] = field(init=False)
    vectors: dict[str, dict[str, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        aspects = [0, 1, 2] + [a for a in range(3) for _ in range(self.terms_per_aspect)]
        self.ontology = make_ontology([[], [], []] + [[a] for a in aspects[3:]], aspects)
        directions = rng.normal(size=(LATENT, len(aspects)))
        # Half of the hidden variables are seen by one encoder, half by the other.
        maps = {"esm2": (slice(0, 3), rng.normal(size=(3, 10))), "t5": (slice(3, 6), rng.normal(size=(3, 7)))}
        self.latent, self.labels, self.taxa, self.vectors = {}, {}, {}, {}
        for which, count in (("train", self.proteins), ("test", self.tests)):
            hidden = rng.normal(size=(count, LATENT))
            labels = hidden @ directions > 1.2 * np.linalg.norm(directions, axis=0) * np.linspace(
                0.2, 1.2, len(aspects)
            )
            known = rng.random((count, 3)) < 0.8
            known[~known.any(1), 1] = True
            labels &= known[:, aspects]
            labels[:, :3] = known
            self.latent[which], self.labels[which] = hidden, labels
            self.taxa[which] = TAXA[(hidden[:, 0] > 0).astype(int) + 2 * (rng.random(count) < 0.2)]
            self.vectors[which] = {
                name: (hidden[:, part] @ basis + 0.3 * rng.normal(size=(count, basis.shape[1]))).astype(np.float16)
                for name, (part, basis) in maps.items()
            }
            self.vectors[which]["text"] = np.abs(hidden[:, : self.words]).astype(np.float16)

    def write(self, folder: Path) -> Path:
        """Write stage 7's inputs below `folder`."""
        ids = {"train": [f"P{i:04d}" for i in range(self.proteins)], "test": [f"T{i:04d}" for i in range(self.tests)]}
        rng = np.random.default_rng(self.seed + 1)
        folds = np.arange(self.proteins) % (self.folds + 1) - 1
        row, column = np.nonzero(self.labels["train"])
        terms = self.ontology.terms
        values: dict[str, object] = {
            "parsed/train_terms.parquet": pd.DataFrame(
                {
                    "id": [ids["train"][i] for i in row],
                    "term": [terms[c] for c in column],
                    "aspect": [ASPECTS[self.ontology.aspects[c]] for c in column],
                    "stated": True,
                }
            ),
            "parsed/term_priors.parquet": pd.DataFrame({"term": terms, "ia": np.linspace(0, 5, len(terms))}),
            "parsed/ontology.json": self.ontology.to_json(),
            "parsed/splits.feather": pd.DataFrame(
                {
                    "id": ids["train"],
                    "role": np.where(folds < 0, "val", "fit"),
                    "fold": folds.astype(np.int8),
                    "cluster": np.arange(self.proteins) // 2,
                }
            ),
        }
        for which in ("train", "test"):
            sequences = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 24)) for _ in ids[which]]
            values[f"parsed/{which}_seq.feather"] = pd.DataFrame({"id": ids[which], "sequence": sequences})
            values[f"parsed/{which}_taxa.feather"] = pd.DataFrame({"id": ids[which], "taxon_id": self.taxa[which]})
            values[f"parsed/homology_{which}.feather"] = self._hits(which)
            for modality, vectors in self.vectors[which].items():
                values[f"features/{which}_embeds_{modality}.npy"] = vectors
        for path, value in values.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            artefact(path).codec.write(folder / path, value)
        return folder

    def _hits(self, which: str) -> pd.DataFrame:
        """The four train proteins with the most similar hidden variables; one in ten queries has no hit."""
        distance = np.linalg.norm(self.latent[which][:, None] - self.latent["train"][None], axis=2)
        if which == "train":
            np.fill_diagonal(distance, np.inf)
        nearest = np.argsort(distance, axis=1)[:, :4]
        query = np.repeat(np.arange(len(distance)), 4)
        near = distance[query, nearest.ravel()]
        table = pd.DataFrame(
            {
                "query": query,
                "target": nearest.ravel(),
                "bits": np.exp(4 - near).astype(np.float32),
                "fident": np.exp(-near / 4).astype(np.float32),
                "qcov": np.float32(0.9),
                "tcov": np.float32(0.9),
            }
        )
        return table[table["query"] % 10 > 0].reset_index(drop=True)


def stage_context(folder: Path, config: Level1Config, *, staging: str = "staging", work: str = "work") -> StageContext:
    """A context over a fake run folder; outputs land in `<folder>/<staging>`."""
    whole = Config(level1=config)
    (folder / work).mkdir(parents=True, exist_ok=True)
    return StageContext(
        stage=STAGE,
        sections={"level1": config, "transform": TransformConfig()},
        files={},
        run_folder=folder,
        staging=folder / staging,
        work=folder / work,
        cache=folder / "cache",
        device="cpu",
        threads=1,
        input_paths=frozenset(STAGE.inputs(whole)),
        output_paths=frozenset(STAGE.outputs(whole)),
        log=Logger(folder / "logs", quiet=True),
    )


def training_data(folder: Path) -> TrainingData:
    """The written folder as fitters see it, with every term of a train protein."""
    return load_training_data(lambda path: artefact(path).codec.read(folder / path))


def features_of_tests(folder: Path) -> Features:
    """The written test proteins."""
    return load_features(lambda path: artefact(path).codec.read(folder / path), "test")


def fit_context(work: Path, config: Level1Config = QUICK, fold: int = -1) -> FitContext:
    """A context for one fit on the CPU."""
    return FitContext(
        config=config,
        transform=TransformConfig(),
        device="cpu",
        threads=1,
        work=work,
        log=Logger(None, quiet=True),
        stage="test",
        fold=fold,
    )


def rows_without(data: TrainingData, fold: int) -> IntArray:
    """Rows of the fit for one fold."""
    return np.flatnonzero((data.folds >= 0) & (data.folds != fold))


def with_dense(data: TrainingData, dense: dict[str, np.ndarray]) -> TrainingData:
    """The same data with other vectors."""
    return replace(data, features=replace(data.features, dense=dense))
