"""Which proteins, terms and graph: files, and how the train proteins are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.config.base import InputFile, Section


class DataConfig(Section):
    """`name` picks a dataset registry entry, which only supplies defaults for the keys below it."""

    name: Literal["demo", "smoke", "tiny", "medium", "cafa5", "cafa6", "files"] = "files"
    version: str = "1"
    train_fasta: InputFile | None = None
    train_terms: InputFile | None = None
    train_taxonomy: InputFile | None = None
    test_fasta: InputFile | None = None
    test_taxonomy: InputFile | None = None
    test_terms: InputFile | None = None
    obo: InputFile | None = None
    ia: InputFile | None = None
    text: InputFile | None = None
    gaf: InputFile | None = None
    known_terms: InputFile | None = None
    split_ids: InputFile | None = None


class SplitConfig(Section):
    """Homology clusters, validation part and folds; see `parsed/splits.json`."""

    folds: int = Field(5, ge=2, le=20)
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    min_seq_id: float = Field(0.3, ge=0, le=1, description="cluster threshold, fraction identical")
    coverage: float = Field(0.8, ge=0, le=1)
    near_copy_identity: float = Field(
        0.9, ge=0.3, description="pairs this identical over `coverage` of both are never on two sides; above 1: allowed"
    )
    linclust_above: int = Field(50_000, description="proteins above which linear-time clustering is used")
    seed: int = 11


class HomologyConfig(Section):
    """The MMseqs2 search behind the vote and the split check."""

    sensitivity: float = Field(7.5, ge=1, le=7.5)
    evalue: float = Field(10.0, gt=0, description="weak hits vote too: their weight is small, and the prior's is not")
    max_hits: int = Field(100, ge=1)
