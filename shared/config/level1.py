"""Level-1 models: which, on which terms, and how they are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.config.base import Section
from shared.config.cnn import CnnConfig
from shared.config.training import TrainingConfig

ModelName = Literal[
    "homology", "taxon", "gbdt", "knn", "logreg", "logreg_conditional", "text", "mlp", "mlp_conditional", "cnn"
]


class MlpConfig(Section):
    """Multi-label heads over the concatenated modalities, one per aspect."""

    hidden: int = Field(512, ge=1, description="width of every layer")
    dropout: float = Field(0.2, ge=0, lt=1)
    modality_dropout: float = Field(
        0.0, ge=0, lt=1, description="how often a training protein loses a modality, its taxon included; never all"
    )
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


class LogregConfig(Section):
    """Logistic regression per term with one shared Hessian bound."""

    l2: float = Field(1e-4, gt=0, description="penalty on the squared weights, beside the mean log-loss")
    iterations: int = Field(300, ge=1)
    tolerance: float = Field(
        1e-4, gt=0, description="a term is finished when a step changes its logits by less (root mean square)"
    )
    components: int = Field(
        1024, ge=1, description="principal directions of the inputs that are used, where there are more dimensions"
    )


class KnnConfig(Section):
    """Cosine neighbours in embedding space."""

    neighbours: int = Field(20, ge=1)
    temperature: float = Field(0.1, gt=0, description="a neighbour's weight is exp((cosine - 1) / temperature)")


class HomologyVoteConfig(Section):
    """score(term) = weights of the hits that have the term / all weights; weight = bit score * identity ** power."""

    identity_power: float = Field(1.0, ge=0, description="identity counts aligned over the longer protein")
    prior_weight: float = Field(10.0, ge=0, description="weight of an imagined hit that has every term by its prior")
    taxon_weight: float = Field(
        10.0, gt=0, description="proteins that a term's overall share counts as, beside those of the taxon"
    )


class TaxonConfig(Section):
    """How often a term is found among the fitted proteins of the same taxon."""

    prior_proteins: float = Field(10.0, gt=0, description="proteins that a term's overall share counts as")


class GbdtConfig(Section):
    """Boosted trees over (protein, term) pairs of homology, taxon and frequency."""

    library: Literal["lightgbm", "py_boost"] = Field(
        "lightgbm", description="what fits; py_boost needs the optional package py-boost and an Nvidia GPU"
    )
    trees: int = Field(150, ge=1)
    leaves: int = Field(31, ge=2)
    learning_rate: float = Field(0.08, gt=0)
    min_pairs: int = Field(50, ge=1, description="training pairs that a leaf needs")
    l2: float = Field(1.0, ge=0)
    proteins: int = Field(4000, ge=1, description="fitted proteins whose pairs are learnt from, drawn by seed")
    background: float = Field(0.05, gt=0, le=1, description="share of the negative pairs without any hit that is kept")


class Level1Config(Section):
    """Stage 7."""

    models: list[ModelName] = Field(
        ["homology", "taxon", "knn", "logreg", "mlp", "cnn"],
        min_length=1,
        description="by registry name; *_conditional learns each term only where one of its parents is true, "
        "and reads the settings of the model it is named after",
    )
    max_terms: int = Field(1500, ge=1, description="columns: the most frequent terms among the proteins of the fit")
    min_positives: int = Field(5, ge=1, description="fitted proteins a term needs")
    min_taxon_proteins: int = Field(50, ge=1, description="fitted proteins a taxon needs for a column of its own")
    class_weight: Literal["none", "ia", "balanced"] = "none"
    sampling: Literal["uniform", "cluster"] = "uniform"
    mlp: MlpConfig = MlpConfig()
    logreg: LogregConfig = LogregConfig()
    knn: KnnConfig = KnnConfig()
    homology: HomologyVoteConfig = HomologyVoteConfig()
    taxon: TaxonConfig = TaxonConfig()
    gbdt: GbdtConfig = GbdtConfig()
    cnn: CnnConfig = CnnConfig()
    training: TrainingConfig = TrainingConfig()
