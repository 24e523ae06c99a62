"""Who is fitted on, and who is held out: validation part and folds made of whole homology clusters.

Random splits put near-copies on both sides and overestimate every figure (Petti & Eddy 2021,
doi:10.1371/journal.pcbi.1009492; GraphPart, doi:10.1093/nargab/lqad088). Clustering alone does not promise that
no similar pair is left across the parts, so `near_pairs` counts them by search hits after the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from shared.config import SplitConfig
from shared.digests import digest_of_lines
from shared.errors import DataError
from shared.fasta import normalise_id, read_lines

IntArray = npt.NDArray[np.int64]
MAX_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Split:
    """Roles of the train proteins, in row order; `folds` is -1 exactly where `validation` is True."""

    ids: Sequence[str]
    validation: npt.NDArray[np.bool_]
    folds: npt.NDArray[np.int8]
    clusters: IntArray
    record: dict[str, Any] = field(repr=False)  # how it was made

    def frame(self) -> pd.DataFrame:
        """Columns of `parsed/splits.feather`."""
        roles = np.where(self.validation, "val", "fit")
        return pd.DataFrame({"id": self.ids, "role": roles, "fold": self.folds, "cluster": self.clusters})

    def hashes(self) -> dict[str, str]:
        """sha256 of the ids of each part, one a line, in row order."""
        parts = {"val": self.validation, **{f"fold_{fold}": self.folds == fold for fold in self.fold_numbers()}}
        return {
            name: digest_of_lines(self.ids[row] for row in np.flatnonzero(rows).tolist())
            for name, rows in parts.items()
        }

    def sizes(self) -> dict[str, int]:
        """Proteins in each part."""
        folds = {f"fold_{fold}": int((self.folds == fold).sum()) for fold in self.fold_numbers()}
        return {"fit": int((~self.validation).sum()), "val": int(self.validation.sum()), **folds}

    def fold_numbers(self) -> list[int]:
        """Ascending."""
        return [int(fold) for fold in np.unique(self.folds) if fold >= 0]


def make_split(
    ids: Sequence[str],
    sequences: Sequence[str],
    clusters: IntArray,
    config: SplitConfig,
    listed: Sequence[str] | None = None,
) -> Split:
    """Divide train proteins into a validation part and cluster folds.

    Args:
        ids: of the train proteins, in row order.
        sequences: theirs; equal ones never end on two sides.
        clusters: int64 [proteins]; equal sequences share one.
        config: number of folds, validation fraction, seed.
        listed: ids of the validation part, obeyed even where they cut through a cluster; None draws
            whole clusters by the seed.

    Raises:
        DataError: nothing or everything would be validation, or there are fewer clusters than folds.
    """
    generator = np.random.default_rng(config.seed)
    if listed is None:
        validation, record = _draw_validation(clusters, config, generator)
    else:
        validation, record = _listed_validation(ids, sequences, clusters, listed)
    folds = np.full(len(ids), -1, np.int8)
    folds[~validation] = _balanced_folds(clusters[~validation], config.folds, generator)
    return Split(ids, validation, folds, clusters, record)


def join_near_copies(clusters: IntArray, hits: pd.DataFrame, identity: float, coverage: float) -> IntArray:
    """Join clusters that hold near copies of each other, which a clustering by centres may separate.

    Args:
        clusters: int64 [proteins], numbered by their first member's row.
        hits: search of the proteins in themselves; columns query, target, fident, qcov, tcov.
        identity: least identical fraction of a near copy; above 1 joins nothing.
        coverage: least aligned fraction of both proteins.

    Returns:
        int64 [proteins], numbered in the same way.
    """
    near = _near(hits, identity, coverage)
    a, b = clusters[near["query"].to_numpy()], clusters[near["target"].to_numpy()]
    size = int(clusters.max()) + 1 if len(clusters) else 0
    _, joined = connected_components(sparse.csr_array((np.ones(len(a)), (a, b)), shape=(size, size)), directed=False)
    labels, _ = pd.factorize(joined[clusters])  # by first appearance
    renumbered: IntArray = labels.astype(np.int64)
    return renumbered


def _near(hits: pd.DataFrame, identity: float, coverage: float) -> pd.DataFrame:
    covered = np.minimum(hits["qcov"].to_numpy(), hits["tcov"].to_numpy()) >= np.float32(coverage)
    near: pd.DataFrame = hits[covered & (hits["fident"].to_numpy() >= np.float32(identity))]
    return near


def near_pairs(split: Split, hits: pd.DataFrame, min_seq_id: float, coverage: float) -> dict[str, Any]:
    """Count similar pairs that the split did not keep together.

    Args:
        split: of the train proteins.
        hits: search of the train proteins in themselves; columns query, target, fident, qcov, tcov.
        min_seq_id: least identical fraction of a near pair.
        coverage: least aligned fraction of both proteins.

    Returns:
        Pairs (each counted once) and proteins, across two folds and between validation and fit, with examples.
    """
    near = _near(hits, min_seq_id, coverage)
    query, target = near["query"].to_numpy(), near["target"].to_numpy()
    pairs = pd.DataFrame({"a": np.minimum(query, target), "b": np.maximum(query, target)}).drop_duplicates()
    pairs = pairs.sort_values(["a", "b"], ignore_index=True)
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    border = split.validation[a] != split.validation[b]
    across = ~split.validation[a] & ~split.validation[b] & (split.folds[a] != split.folds[b])
    return {
        "rule": f"search hits with identity >= {min_seq_id} and coverage of both >= {coverage}",
        "pairs": len(pairs),
        "across_folds": _describe(split.ids, a[across], b[across]),
        "val_fit": _describe(split.ids, a[border], b[border]),
    }


def read_split_ids(path: Path) -> list[str]:
    """Ids of the validation part: one a line, blank lines ignored.

    Raises:
        DataError: no id in the file, or more than one word on a line.
    """
    listed: dict[str, None] = {}
    for number, line in read_lines(path):
        words = line.decode("utf-8", "replace").removeprefix("\ufeff").split()
        if len(words) > 1:
            what = f"expected one accession, found {len(words)} words"
            raise DataError(what, where=f"{path}:{number}", remedy="Write one accession a line")
        if words:
            listed[normalise_id(words[0])] = None
    if not listed:
        raise DataError("no accession in the file", where=str(path), remedy="Clear data.split_ids to split by clusters")
    return list(listed)


def _draw_validation(
    clusters: IntArray, config: SplitConfig, generator: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], dict[str, Any]]:
    """`val_fraction` of the clusters; one that alone is larger than the part should be is not drawn."""
    numbers, sizes = np.unique(clusters, return_counts=True)
    wanted = max(1, round(config.val_fraction * len(numbers)))
    if len(numbers) < wanted + config.folds:
        raise _too_few(len(numbers), config.folds)
    eligible = numbers[sizes <= max(1.0, config.val_fraction * len(clusters))]
    if not len(eligible):
        eligible = numbers[[int(np.argmin(sizes))]]
    drawn = generator.permutation(eligible)[:wanted]
    record = {"validation": "clusters drawn by seed", "clusters_drawn": len(drawn), "fraction": config.val_fraction}
    return np.isin(clusters, drawn), record


def _listed_validation(
    ids: Sequence[str], sequences: Sequence[str], clusters: IntArray, listed: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], dict[str, Any]]:
    """The listed ids, and their equals in sequence: nobody may be fitted on a copy of a validation protein."""
    row_of = {protein: row for row, protein in enumerate(ids)}
    rows = np.array([row_of[protein] for protein in listed if protein in row_of], np.int64)
    unknown = [protein for protein in listed if protein not in row_of]
    if not len(rows):
        what = f"none of {len(listed)} validation ids is a train protein, for example {unknown[0]}"
        raise DataError(what, where="data.split_ids", remedy="Use the accessions of the train FASTA")
    validation = np.zeros(len(ids), np.bool_)
    validation[rows] = True
    held = {sequences[row] for row in rows.tolist()}
    twins = np.array(
        [row for row, sequence in enumerate(sequences) if sequence in held and not validation[row]], np.int64
    )
    validation[twins] = True
    cut = ~validation & np.isin(clusters, np.unique(clusters[validation]))
    record = {
        "validation": "listed ids",
        "listed": len(listed),
        "unknown": {"count": len(unknown), "examples": unknown[:MAX_EXAMPLES]},
        "moved_to_val_as_identical": {
            "count": len(twins),
            "examples": [ids[row] for row in twins[:MAX_EXAMPLES].tolist()],
        },
        "fit_in_a_val_cluster": {
            "count": int(cut.sum()),
            "examples": [ids[row] for row in np.flatnonzero(cut)[:MAX_EXAMPLES].tolist()],
        },
    }
    return validation, record


def _balanced_folds(clusters: IntArray, folds: int, generator: np.random.Generator) -> npt.NDArray[np.int8]:
    """Largest cluster first into the smallest fold; equal sizes in random order, so that folds are no sorted slices."""
    numbers, members, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(numbers) < folds:
        raise _too_few(len(numbers), folds)
    shuffled = generator.permutation(len(numbers))
    load = np.zeros(folds, np.int64)
    fold_of = np.empty(len(numbers), np.int8)
    for cluster in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[cluster] = np.argmin(load)
        load[fold_of[cluster]] += sizes[cluster]
    return fold_of[members]


def _too_few(clusters: int, folds: int) -> DataError:
    what = f"{clusters} homology clusters cannot be divided into a validation part and {folds} folds"
    remedy = "Give more train proteins, raise split.min_seq_id, or lower split.folds"
    return DataError(what, where="data.train_fasta", remedy=remedy)


def _describe(ids: Sequence[str], a: IntArray, b: IntArray) -> Mapping[str, Any]:
    examples = [[ids[x], ids[y]] for x, y in zip(a[:MAX_EXAMPLES].tolist(), b[:MAX_EXAMPLES].tolist(), strict=True)]
    return {"pairs": len(a), "proteins": len(np.union1d(a, b)), "examples": examples}
