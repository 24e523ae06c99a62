"""The graph stacker."""

from __future__ import annotations

from pydantic import Field

from shared.config.base import Section


class StackerConfig(Section):
    """Stage 8: a graph network over the GO DAG that corrects a linear blend of the level-1 scores.

    Optimiser, precision, clipping and schedule are `level1.training`'s; the stacker itself always
    computes in float32. The defaults take about 8 minutes of one core for 16,000 proteins, 1500 terms,
    five models and five folds.
    """

    terms: int = Field(1500, ge=1)
    hidden: int = Field(
        16,
        ge=16,
        multiple_of=16,
        description="with other widths, matrix products round a protein by its place in the batch",
    )
    embedding: int = Field(8, ge=1)
    layers: int = Field(2, ge=0, description="rounds of messages between a term, its children and its parents")
    dropout: float = Field(0.1, ge=0, lt=1, description="of hidden features, per protein")
    goa_dropout: float = Field(0.5, ge=0, lt=1, description="how often a training protein loses all its GOA channels")
    epochs: int = Field(6, ge=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-3, gt=0)
    proteins_per_epoch: int = Field(4000, ge=1, description="at most; drawn anew every epoch")
    inner_proteins: int = Field(1000, ge=1, description="proteins of the inner held-out fold that choose the epoch")
    base_proteins: int = Field(2000, ge=1, description="proteins that fit the linear blend")
    base_prior: float = Field(
        1.0, gt=0, description="strength of the pull of a term's own bias and scale towards its aspect's"
    )
    cross_components: int = Field(
        0, ge=0, description="principal directions of the other aspects' level-1 scores that the blend reads; 0 is none"
    )
    cross_prior: float = Field(500.0, gt=0, description="strength of the pull of what they add towards nothing")
    average_best: int = Field(1, ge=1, description="epochs whose weights are averaged")
    low_conf_quantile: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of fit proteins whose best out-of-fold score counts as low; sets low_conf_threshold",
    )
    seed: int = 23
