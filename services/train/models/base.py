"""How a level-1 model is fitted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from services.train.team import ALONE, Team
from shared.config import Level1Config, TransformConfig
from shared.logs import Logger
from shared.models.base import Level1Model
from shared.models.features import Features, IntArray
from shared.ontology import Ontology
from shared.progress import Progress, progress

Telling = Callable[[str, int, str], AbstractContextManager[Progress]]  # what, total, unit
Targets = Literal["raw", "conditional"]  # conditional: unknown where a protein has none of the term's parents


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Train proteins with their labels; rows follow `parsed/train_seq.feather`.

    `labels` is 0/1 CSR [train protein, term] over `terms`, propagated. `annotated[p, a]` says that
    protein p has any label in aspect a (order MF, BP, CC): an unannotated aspect is unknown, not
    negative, so its terms enter no loss. `folds` is -1 for validation rows, which enter no fit.
    """

    features: Features
    terms: tuple[str, ...]
    aspects: npt.NDArray[np.int8]  # [term], index into ASPECTS
    labels: sparse.csr_array
    annotated: npt.NDArray[np.bool_]  # [train protein, 3]
    folds: IntArray
    clusters: npt.NDArray[np.int64]
    ontology: Ontology
    information: npt.NDArray[np.float32]  # [term], information accretion in bits


@dataclass(frozen=True, slots=True)
class FitContext:
    """Everything a fit may use beside its data. `work` survives a kill."""

    config: Level1Config
    transform: TransformConfig
    device: str
    threads: int
    work: Path
    log: Logger = field(repr=False)
    stage: str = ""
    fold: int = -1
    team: Team = ALONE
    progress: Telling = progress


class Fitter(Protocol):
    """One registry entry of services.train.models.MODELS."""

    name: ClassVar[str]
    settings: ClassVar[str]  # its section of `level1`; variants of a model share one
    sections: ClassVar[tuple[str, ...]]  # all that it reads; of others it is given None
    modalities: ClassVar[tuple[str, ...]]  # of `Features.dense`, likewise
    votes: ClassVar[bool]  # fitted once on all fit rows (VoteModel), else once per fold
    targets: ClassVar[Targets]  # what a loss reads

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> Level1Model:
        """Fit on the train proteins at `rows` and nothing else; deterministic for a given seed and thread count."""
        ...
