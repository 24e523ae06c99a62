"""A run folder before stage 8 in which children's scores say more of a parent than its own score does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from services.train.stage import StageContext
from services.train.stages.stage_08_stacker import STAGE
from shared.artefacts import artefact
from shared.config import Config, Level1Config, StackerConfig
from shared.logs import Logger
from shared.models.base import logit
from shared.ontology import ASPECTS, Ontology
from tests.fakes.ontologies import make_ontology

LEAF_SHIFT, INNER_SHIFT = 1.6, 0.15  # of a level-1 score by its label, in standard deviations
STACKER = StackerConfig(
    terms=60, hidden=16, embedding=4, epochs=6, learning_rate=0.02, proteins_per_epoch=300, inner_proteins=100
)


def tree(sizes: Sequence[int], seed: int = 0) -> Ontology:
    """One tree per aspect with the given numbers of terms (0: no aspect); each node has about three children."""
    rng = np.random.default_rng(seed)
    parents: list[list[int]] = []
    aspects: list[int] = []
    for aspect, size in enumerate(sizes):
        root = len(parents)
        for i in range(size):
            parents.append([root + int(rng.integers((i - 1) // 3, max((i - 1) // 2, (i - 1) // 3) + 1))] if i else [])
            aspects.append(aspect)
    return make_ontology(parents, aspects)


@dataclass
class Planted:
    """What the fake run folder is made from; change fields before `write`."""

    sizes: Sequence[int] = (12, 22, 6)
    proteins: int = 500
    tests: int = 40
    folds: int = 5
    models: Sequence[str] = ("homology", "knn")
    goa: bool = True
    seed: int = 1
    ontology: Ontology = field(init=False)
    labels: np.ndarray = field(init=False)
    test_labels: np.ndarray = field(init=False)
    folds_of: np.ndarray = field(init=False)
    level1: dict[str, np.ndarray] = field(init=False)
    test_level1: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.ontology = tree(self.sizes)
        rng = np.random.default_rng(self.seed)
        self.labels, self.test_labels = self._labels(rng, self.proteins), self._labels(rng, self.tests)
        self.folds_of = np.arange(self.proteins) % (self.folds + 1) - 1  # -1: validation
        self.level1 = {model: self._scores(rng, self.labels) for model in self.models}
        self.test_level1 = {model: self._scores(rng, self.test_labels) for model in self.models}

    def _labels(self, rng: np.random.Generator, proteins: int) -> np.ndarray:
        own = rng.random((proteins, len(self.ontology))) < 0.08
        labels = own.copy()
        for term in range(len(self.ontology)):
            labels[:, self.ontology.ancestors(term)] |= own[:, [term]] & np.array([True])
        for root in (self.ontology.index[term] for term in self.ontology.roots.values()):
            labels[rng.random(proteins) < 0.7, root] = True
        return labels

    def _scores(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """Calibrated by construction: prior logit plus the log likelihood ratio of a shifted Gaussian."""
        leaf = np.array([not self.ontology.children[term] for term in range(len(self.ontology))])
        shift = np.where(leaf, LEAF_SHIFT, INNER_SHIFT)
        seen = shift * (2.0 * labels - 1) + rng.normal(size=labels.shape)
        return np.clip(logit(self.labels.mean(0)) + 2 * shift * seen, -9.21, 9.21).astype(np.float16)

    @property
    def annotated(self) -> np.ndarray:
        """Bool [protein, aspect]."""
        return np.stack([self.labels[:, self.ontology.aspects == a].any(1) for a in range(3)], axis=1)

    def config(self, stacker: StackerConfig = STACKER) -> Config:
        return Config(stacker=stacker, level1=Level1Config(models=list(self.models)))

    def write(self, folder: Path) -> Path:
        """Write stage 8's inputs below `folder`."""
        ids = [f"P{i:05d}" for i in range(self.proteins)]
        test_ids = [f"T{i:05d}" for i in range(self.tests)]
        row, column = np.nonzero(self.labels)
        aspect_names = [ASPECTS[a] for a in self.ontology.aspects]
        terms = list(self.ontology.terms)
        written = {
            "parsed/train_seq.feather": pd.DataFrame({"id": ids, "sequence": "M"}),
            "parsed/test_seq.feather": pd.DataFrame({"id": test_ids, "sequence": "M"}),
            "parsed/train_terms.parquet": pd.DataFrame(
                {
                    "id": [ids[i] for i in row],
                    "term": [terms[i] for i in column],
                    "aspect": [aspect_names[i] for i in column],
                    "stated": True,
                }
            ),
            "parsed/splits.feather": pd.DataFrame(
                {
                    "id": ids,
                    "role": np.where(self.folds_of < 0, "val", "fit"),
                    "fold": self.folds_of.astype(np.int8),
                    "cluster": np.arange(self.proteins),
                }
            ),
            "parsed/ontology.json": self.ontology.to_json(),
            "features/level1_terms.json": {
                "terms": terms,
                "aspects": aspect_names,
                "fold_terms": {str(f): [(t + f) % 17 > 0 for t in range(len(terms))] for f in range(self.folds)},
            },
            "external/prop_train_no_kaggle.tsv.gz": self._goa_table(ids, self.labels),
            "external/prop_test_no_kaggle.tsv.gz": self._goa_table(test_ids, self.test_labels),
        }
        written |= {f"features/oof_{name}.npy": matrix for name, matrix in self.level1.items()}
        written |= {f"features/test_pred_{name}.npy": matrix for name, matrix in self.test_level1.items()}
        for path, value in written.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            artefact(path).codec.write(folder / path, value)
        return folder

    def _goa_table(self, ids: list[str], labels: np.ndarray) -> pd.DataFrame:
        columns = ["EntryID", "term", "channel", "score"]
        if not self.goa:
            return pd.DataFrame(columns=columns)
        rng = np.random.default_rng(5)
        noisy = (labels & (rng.random(labels.shape) < 0.3)) | (rng.random(labels.shape) < 0.01)
        rows = [
            (ids[p], self.ontology.terms[t], "IEA" if (p + t) % 2 else "ISS", 1.0)
            for p, t in zip(*np.nonzero(noisy), strict=True)
        ]
        return pd.DataFrame(rows, columns=columns)


def stage_context(folder: Path, config: Config, work: Path | None = None) -> StageContext:
    """A context over a fake run folder; outputs land in `<folder>/staging`."""
    work = work or folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    sections = STAGE.settings(config)
    return StageContext(
        stage=STAGE,
        sections=sections,
        files={},
        run_folder=folder,
        staging=folder / "staging",
        work=work,
        cache=folder / "cache",
        device="cpu",
        threads=1,
        input_paths=frozenset(STAGE.inputs(config)),
        output_paths=frozenset(STAGE.outputs(config)),
        log=Logger(folder / "logs", quiet=True),
    )
