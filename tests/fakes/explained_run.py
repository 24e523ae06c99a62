"""A small complete run, with the models that made its scores: real encoders, MLP and stacker, a small CNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from services.xai_worker.provenance import Provenance
from shared.artefacts import artefact
from shared.config.embed import EncoderConfig
from shared.digests import digest_of_lines
from shared.manifest import EncoderRecord, EnvLock
from shared.models.base import LOGIT_LIMIT, Level1Model
from shared.models.calibration import BetaCalibration, Calibration
from shared.models.channels import Channels, CrossAspect
from shared.models.feature_space import FeatureSpace
from shared.models.features import Features
from shared.models.knn import Knn
from shared.models.reference import Reference
from shared.nn.encoders import Encoder, load_encoder
from shared.nn.heads import MlpModel, MlpNetwork
from shared.nn.stacker import StackerEnsemble, StackerLayout, StackerShape
from shared.ontology import ASPECTS, Ontology
from tests.fakes.ontologies import make_ontology

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
FOLDS = (0, 1)
# A root and a small tree in MF, a root and one term in BP; the last term is too rare for the model.
PARENTS: list[list[int]] = [[], [], [0], [1], [0], [2], [2], [5]]
ASPECT_OF = [0, 1, 0, 1, 0, 0, 0, 0]
MODEL_TERMS = 7
SITE = "GKS"
WORDS = ("kinase", "membrane", "repair")


class TinyCnn(nn.Module):
    """Embedding -> convolution -> maximum -> terms; G-K-S in a row is what it was built to find."""

    def __init__(self, terms: Sequence[str], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.terms = tuple(terms)
        self.table = torch.randn(len(LETTERS) + 1, 6, generator=generator)
        self.table[-1] = 0.0  # the mask
        motif = torch.stack([self.table[LETTERS.index(letter)] for letter in SITE])
        self.filters = torch.cat([motif[None], 0.2 * torch.randn(4, 3, 6, generator=generator)]).transpose(1, 2)
        self.out = torch.randn(5, len(terms), generator=generator) * 0.1
        self.out[0] = 0.2

    def embed_tokens(self, sequence: str) -> Tensor:
        return self.table[[LETTERS.index(letter) for letter in sequence]]

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        found = torch.nn.functional.conv1d(embedded.transpose(1, 2), self.filters, padding=1)
        return torch.logsumexp(found, dim=-1) @ self.out - 2.0

    def mean_residue(self) -> Tensor:
        return self.table[:-1].mean(0)

    def masked_logits(self, sequence: str, positions: Sequence[int]) -> Tensor:
        embedded = self.embed_tokens(sequence).clone()
        embedded[list(positions)] = self.table[-1]
        return self.forward_embedded(embedded[None])[0]

    def logits(self, features: Features, rows: np.ndarray) -> np.ndarray:
        return torch.stack([self.masked_logits(features.sequences[row], []) for row in rows]).numpy()


@dataclass
class FakeBundle:
    """What explanations use of a TrainedModel."""

    level1: dict[str, Sequence[Any]]
    encoders: dict[str, Encoder]
    stacker: StackerEnsemble
    calibration: Calibration = field(
        default_factory=lambda: Calibration(
            {aspect: BetaCalibration(1.2, 0.9, 0.1) for aspect in ASPECTS}, dict.fromkeys(ASPECTS)
        )
    )
    metadata: dict[str, Any] = field(default_factory=lambda: {"knn_lambda": 0.5, "submission": {}})
    references: tuple[list[str], list[str]] = ([], [])
    knn: Knn | None = None

    def knn_reference(self) -> Knn:
        assert self.knn is not None
        return self.knn

    def rare_scores(self, features: Features) -> None:
        return None


@dataclass
class ExplainedRun:
    """Makes the models, scores the proteins with them, writes what stages 1 to 8 would have left."""

    folder: Path
    test_ids: Sequence[str] = ("T1", "T2", "T3")
    residues: int = 18
    goa_kinds: tuple[str, ...] = ("IEA",)
    cross: int = 0  # components of the other aspects that the stacker reads
    conditional: bool = False  # the MLP's targets
    dtype: str = "float32"  # of the embeddings
    ontology: Ontology = field(init=False)
    bundle: FakeBundle = field(init=False)

    def __post_init__(self) -> None:
        self.ontology = make_ontology(PARENTS, ASPECT_OF)
        self.terms = [self.ontology.terms[i] for i in (2, 0, 4, 5, 6, 1, 3)]  # any order but the ontology's
        train = [f"P{i}" for i in range(6)]
        self.parts = {"train": self._features(train, 1), "test": self._features(list(self.test_ids), 2)}
        self.bundle = FakeBundle(self._level1(), self.encoders, self._stacker())
        train = self.parts["train"]
        self.bundle.references = (list(train.ids), list(train.sequences))
        self.bundle.knn = self._knn()
        self._write()

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        return {
            "esm2": load_encoder(EncoderConfig(name="esm2_tiny", dtype=self.dtype), "cpu"),
            "t5": load_encoder(EncoderConfig(name="prott5_tiny", dtype=self.dtype), "cpu"),
        }

    def provenance(self, job_id: str = "local-test") -> Provenance:
        return Provenance(
            job_id=job_id,
            run_id="fake-run",
            model_sha256="0" * 64,
            dataset="smoke 1, by clusters",
            encoders=[EncoderRecord(arch="esm2_tiny", dim=64, weights="random-init(0)")],
            ontology_version="test",
            seeds={"split": 11},
            train_commit=None,
            train_env_lock=None,
            env_lock=EnvLock(name=None, hash=None, policy="warn", verified=False, packages_digest="0" * 64),
            software={"python": "3.11"},
            device="cpu",
            threads=1,
        )

    def _features(self, ids: list[str], seed: int) -> Features:
        rng = np.random.default_rng(seed)
        sequences = []
        for row, _ in enumerate(ids):
            letters = rng.choice(list(LETTERS), self.residues + row)
            letters[4 + row : 7 + row] = list(SITE)
            sequences.append("".join(letters))
        dense = {name: encoder.embed(sequences).astype(np.float16) for name, encoder in self.encoders.items()}
        words = rng.random((len(ids), len(WORDS))) * (rng.random((len(ids), len(WORDS))) < 0.7)
        dense["text"] = words.astype(np.float16)
        taxa = rng.choice([9606, 10090], len(ids)).astype(np.int64)
        return Features(ids, sequences, dense, taxa, None)

    def _level1(self) -> dict[str, Sequence[Level1Model]]:
        train = self.parts["train"]
        space = FeatureSpace.fit(train, np.arange(len(train)), version="v2", normalize=True, min_taxon_proteins=1)
        groups = [ASPECTS[self.ontology.aspects[self.ontology.index[term]]] for term in self.terms]
        edges = self.ontology.subset_edges(self.terms) if self.conditional else None
        heads = []
        for fold in FOLDS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(fold + 7)
                network = MlpNetwork(space, groups, hidden=8, dropout=0.1, edges=edges)
                heads.append(MlpModel(network, space, tuple(self.terms)))
        votes: Any = [object()]
        return {"homology": votes, "mlp": heads, "cnn": [TinyCnn(self.terms, fold) for fold in FOLDS]}  # type: ignore[dict-item]

    def _knn(self) -> Knn:
        """Five fit proteins that vote; each has the terms of its row's parity."""
        train, rows = self.parts["train"], np.arange(5)
        space = FeatureSpace.fit(train, rows, version="v2", normalize=False, min_taxon_proteins=99)
        marks = np.tile(np.eye(2, dtype=np.float32)[rows % 2], (1, 4))[:, : len(self.terms)]
        aspects = np.array([self.ontology.aspects[self.ontology.index[term]] for term in self.terms], np.int8)
        annotated = np.array([[True, True, False]] * 4 + [[False, True, False]])
        labels = sparse.csr_array(marks * annotated[:, aspects])
        priors, taxa = np.full(len(self.terms), 0.2, np.float32), np.zeros(len(rows), np.int64)
        reference = Reference(rows, labels, annotated, aspects, priors, taxa)
        embeddings = Knn.embed(space, train, rows).astype(np.float16)
        return Knn(reference, embeddings, space, tuple(self.terms), neighbours=4, temperature=0.1)

    def _stacker(self) -> StackerEnsemble:
        index = [self.ontology.index[term] for term in self.terms]
        aspects = tuple(ASPECTS[self.ontology.aspects[i]] for i in index)
        members = {a: [t for t, of in zip(self.terms, aspects, strict=True) if of == a] for a in ("MF", "BP")}
        layout = StackerLayout(
            terms=tuple(self.terms),
            aspects=aspects,
            columns=tuple(range(len(self.terms))),
            level1_terms=len(self.terms),
            level1_digest=digest_of_lines(self.terms),
            channels=Channels(("mlp", "cnn"), self.goa_kinds, self.cross),
            missing_rate=tuple([0.5] + [0.0] * (len(self.terms) - 1)),
            edges={a: tuple(sorted(self.ontology.subset_edges(terms))) for a, terms in members.items()},
            folds=FOLDS,
            shape=StackerShape(hidden=4, embedding=2, layers=1),
        )
        networks: dict[int, dict[str, Any]] = {}
        for fold in FOLDS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(100 + fold)
                networks[fold] = {aspect: layout.network(aspect) for aspect in layout.scored_aspects}
                for network in networks[fold].values():
                    nn.init.normal_(network.gate.weight, std=0.3)
                    network.priors.copy_(torch.full_like(network.priors, -1.5))
                    if network.cross_blend is not None:
                        nn.init.normal_(network.cross_blend, std=0.5)
        rng = np.random.default_rng(11)
        cross = {}
        for aspect in layout.scored_aspects if self.cross else ():
            columns = layout.other_columns(aspect)
            directions = rng.normal(size=(len(columns), self.cross)).astype(np.float32)
            cross[aspect] = CrossAspect(columns, np.full(len(columns), -1.0, np.float32), directions)
        return StackerEnsemble(layout, networks, cross=cross)

    def level1_logits(self, part: str, fold: int | None = None) -> dict[str, np.ndarray]:
        """Float16 logits as stage 7 keeps them."""
        features, found = self.parts[part], {}
        for name in ("mlp", "cnn"):
            members = self.bundle.level1[name] if fold is None else [self.bundle.level1[name][FOLDS.index(fold)]]
            rows = np.arange(len(features))
            each = [
                np.clip(member.logits(features, rows), -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float16)
                for member in members
            ]
            found[name] = np.mean([values.astype(np.float32) for values in each], axis=0).astype(np.float16)
        return found

    def _write(self) -> None:
        terms, fold_terms = self.terms, {str(f): [f == 0 or i > 0 for i in range(len(self.terms))] for f in FOLDS}
        aspects = [ASPECTS[self.ontology.aspects[self.ontology.index[term]]] for term in terms]
        folds = np.array([0, 1, 0, 1, 0, -1])
        values: dict[str, object] = {
            "parsed/ontology.json": self.ontology.to_json(),
            "parsed/term_priors.parquet": pd.DataFrame(
                {"term": list(self.ontology.terms), "prior": [1.0, 1.0, 0.05, 0.05, 0.05, 0.05, 0.05, 0.01]}
            ),
            "parsed/splits.feather": pd.DataFrame(
                {
                    "id": list(self.parts["train"].ids),
                    "role": np.where(folds < 0, "val", "fit"),
                    "fold": folds.astype(np.int8),
                }
            ),
            "features/level1_terms.json": {"terms": terms, "aspects": aspects, "fold_terms": fold_terms},
            "features/text_vectorizer.json": {"vocabulary": list(WORDS)},
            "features/top_terms_1500.json": {"terms": terms, "aspects": aspects},
        }
        for part, features in self.parts.items():
            values[f"parsed/{part}_seq.feather"] = pd.DataFrame({"id": features.ids, "sequence": features.sequences})
            values[f"parsed/{part}_taxa.feather"] = pd.DataFrame({"id": features.ids, "taxon_id": features.taxa})
            values[f"parsed/homology_{part}.feather"] = pd.DataFrame(
                {name: np.zeros(0, np.int64) for name in ("query", "target", "bits", "fident", "qcov", "tcov")}
            )
            values |= {
                f"features/{part}_embeds_{name}.npy": np.asarray(array) for name, array in features.dense.items()
            }
            values[f"external/prop_{part}_no_kaggle.tsv.gz"] = self._goa(features.ids)
        values |= self._scores(folds, fold_terms)
        for path, value in values.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            artefact(path).codec.write(self.folder / path, value)

    def _scores(self, folds: np.ndarray, fold_terms: Mapping[str, list[bool]]) -> dict[str, object]:
        stacker = self.bundle.stacker
        test, whole = self.level1_logits("test"), self.level1_logits("train")
        values: dict[str, object] = {f"features/test_pred_{name}.npy": matrix for name, matrix in test.items()}
        values["features/test_pred_gcn.npy"] = stacker.logits(test, self.goa("test")).astype(np.float16)
        gcn = stacker.logits(whole, self.goa("train")).astype(np.float16)
        for fold in FOLDS:
            own, rows = self.level1_logits("train", fold), np.flatnonzero(folds == fold)
            for name in whole:
                whole[name][rows] = own[name][rows]
            missing = (~np.array(fold_terms[str(fold)])).astype(np.float32)
            gcn[rows] = stacker.logits(own, self.goa("train"), fold=fold, missing=missing).astype(np.float16)[rows]
        return {
            **values,
            **{f"features/oof_{name}.npy": matrix for name, matrix in whole.items()},
            "features/oof_gcn.npy": gcn,
        }

    def _goa(self, ids: Sequence[str]) -> pd.DataFrame:
        rows = [(ids[0], self.terms[0], kind, 1.0) for kind in self.goa_kinds]
        return pd.DataFrame(rows, columns=["EntryID", "term", "channel", "score"])

    def goa(self, part: str) -> dict[str, sparse.csr_array]:
        """Kind -> [protein, stacker term]: the part's first protein has the first term."""
        matrix = np.zeros((len(self.parts[part]), len(self.terms)), np.float32)
        matrix[0, 0] = 1.0
        return {kind: sparse.csr_array(matrix) for kind in self.goa_kinds}
