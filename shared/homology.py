"""Homology search and clustering of proteins with MMseqs2 (`shared.mmseqs`).

Three rules make results depend on the proteins alone:

1. Equal sequences are searched once and expanded afterwards, so that equal proteins have equal hits, always
   find each other, and are always in one cluster, however short they are.
2. Unique sequences are given to the program in sorted order: another order of the input only reorders rows.
3. Finished results are kept by the digest of their input, so that a killed run does not search again.

Source: Steinegger & Söding 2017, doi:10.1038/nbt.3988.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from shared.atomic import atomic_path
from shared.digests import digest_of, digest_of_lines
from shared.errors import from_os_error
from shared.mmseqs import Mmseqs, Report, searcher_version

Protein = tuple[str, str]  # id, sequence
IntArray = npt.NDArray[np.int64]

HIT_COLUMNS = ("query", "target", "bits", "fident", "qcov", "tcov")
_HIT_TYPES: dict[str, type[np.generic]] = {
    name: np.int64 if name in ("query", "target") else np.float32 for name in HIT_COLUMNS
}

# Proteins that pass the k-mer stage and are aligned: MMseqs2's own default, and a floor under `max_hits`.
MIN_CANDIDATES = 300
# How candidates are found: by the k-mer index, whose k and parts are fixed, because the program would choose them by
# the free memory; or, among few targets, by ungapped alignment of all pairs, which needs neither the seconds nor the
# gigabyte that the index costs. The number of targets alone decides, so that a protein searched by itself later
# meets the same method as in its batch.
MAX_EXHAUSTIVE = 1000
BY_INDEX = ("-k", "6", "--split", "1")
EXHAUSTIVE = ("--prefilter-mode", "1")

# BLOSUM62 scores of a residue against itself, and the gapped statistics (11, 1) that turn scores into bits;
# for equal proteins too short to be found by k-mers. Source: Henikoff & Henikoff 1992; NCBI BLAST, blast_stat.c.
_SELF_SCORES = dict(
    zip("ARNDCQEGHILKMFPSTWYVBZX", (4, 5, 6, 6, 9, 5, 5, 6, 8, 4, 4, 5, 5, 6, 7, 4, 5, 11, 7, 4, 4, 4, -1), strict=True)
)
_LAMBDA, _K = 0.267, 0.041


def search(
    queries: Sequence[Protein],
    targets: Sequence[Protein],
    *,
    sensitivity: float,
    evalue: float,
    max_hits: int,
    threads: int,
    work: Path,
    within: bool = False,
    report: Report | None = None,
) -> pd.DataFrame:
    """Local alignments of every query with its most similar targets.

    Args:
        queries: (id, sequence) pairs; row numbers of the result count them.
        targets: likewise; ids only order hits of equal score.
        sensitivity: MMseqs2's `-s`, 1 (fast) to 7.5.
        evalue: hits above this E-value are left out; equal sequences are hits at any E-value.
        max_hits: kept per query, by bit score.
        threads: of the search; no result depends on it.
        work: where temporary files and finished results are kept.
        within: queries and targets are one set; then row i is no hit of row i, though its twins are.
        report: hears what the search is doing.

    Returns:
        One row per hit, sorted by query, then descending bits, then target id. Columns query, target (row
        numbers, int64), bits (float32), fident (fraction of aligned columns that are identical), qcov, tcov
        (fractions of query and target that are aligned; float32).

    Raises:
        MissingInput: there is no binary.
        CannotWrite: no space in `work`.
    """
    if not len(queries) or not len(targets):
        return _empty_hits()
    query_rows, query_unique = _unique([sequence for _, sequence in queries])
    target_rows, target_unique = (
        (query_rows, query_unique) if within else _unique([sequence for _, sequence in targets])
    )
    options = ["-s", str(sensitivity), "-e", str(evalue), "--max-seqs", str(max(MIN_CANDIDATES, max_hits + 1))]
    options += EXHAUSTIVE if len(target_unique) <= MAX_EXHAUSTIVE else BY_INDEX
    name = _result_name("search", [*options, str(max_hits)], query_unique, [] if within else target_unique)
    found = _read_kept(work, name)
    if found is None:
        with _scratch(work) as folder:
            run = Mmseqs(threads, report)
            found = _search_unique(run, folder, query_unique, None if within else target_unique, options)
        # One more than asked for, because a protein's hit on itself is not counted; ties are cut after expansion.
        found = found[found.groupby("query")["bits"].rank(method="min", ascending=False) <= max_hits + 1]
        _keep(work, name, found)
    found = _with_twins(found, query_unique, target_unique)
    hits = _expand(found, query_rows, target_rows)
    if within:
        hits = hits[hits["query"] != hits["target"]]
    return _best_hits(hits, [protein for protein, _ in targets], max_hits)


def cluster(
    ids: Sequence[str],
    sequences: Sequence[str],
    *,
    min_seq_id: float,
    coverage: float,
    linear: bool,
    threads: int,
    work: Path,
    report: Report | None = None,
) -> IntArray:
    """Cluster proteins by similarity; members are linked to their cluster's centre.

    Args:
        ids: one per sequence.
        sequences: residues.
        min_seq_id: least identical fraction of an alignment.
        coverage: least aligned fraction of both sequences.
        linear: use the linear-time clustering, which finds fewer remote members.
        threads: of the clustering; no result depends on it.
        work: where temporary files and finished results are kept.
        report: hears what the clustering is doing.

    Returns:
        int64 [proteins]; clusters are numbered by their first member's row. Equal sequences share one.

    Raises:
        MissingInput: there is no binary.
        CannotWrite: no space in `work`.
    """
    if len(ids) != len(sequences):
        raise ValueError(f"{len(ids)} ids for {len(sequences)} sequences")
    if not sequences:
        return np.empty(0, np.int64)
    rows, unique = _unique(sequences)
    method = clustering_method(len(unique), linear)
    options = ["--min-seq-id", str(min_seq_id), "-c", str(coverage), "--cov-mode", "0"]
    name = _result_name(method, options, unique, [])
    found = _read_kept(work, name)
    if found is None:
        with _scratch(work) as folder:
            centres = _cluster_unique(Mmseqs(threads, report), folder, unique, method, options)
        found = pd.DataFrame({"centre": centres})
        _keep(work, name, found)
    centres = found["centre"].to_numpy(np.int64)
    labels, _ = pd.factorize(centres[rows])  # by first appearance
    return labels.astype(np.int64)


def clustering_method(proteins: int, linear: bool) -> str:
    """`linclust` where asked for; else all pairs among few different sequences, and the cascade of k-mer searches."""
    if linear:
        return "linclust"
    return "exhaustive" if proteins <= MAX_EXHAUSTIVE else "cluster"


def _unique(sequences: Sequence[str]) -> tuple[IntArray, list[str]]:
    """Row of each sequence in the sorted list of different ones, and that list."""
    unique = sorted(set(sequences))
    number = {sequence: row for row, sequence in enumerate(unique)}
    return np.fromiter((number[sequence] for sequence in sequences), np.int64, len(sequences)), unique


def _result_name(kind: str, options: Sequence[str], queries: Sequence[str], targets: Sequence[str]) -> str:
    parts = [searcher_version(), list(options), digest_of_lines(queries), digest_of_lines(targets)]
    return f"{kind}-{digest_of(kind, *parts)[:32]}"


def _keep(work: Path, name: str, found: pd.DataFrame) -> None:
    with atomic_path(work / f"{name}.parquet") as temporary:
        table = pa.Table.from_pandas(found, preserve_index=False)
        parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _read_kept(work: Path, name: str) -> pd.DataFrame | None:
    try:
        table = parquet.read_table(work / f"{name}.parquet", page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None  # not there, or damaged: search again
    found: pd.DataFrame = table.to_pandas()
    return found


@contextlib.contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """A temporary folder in `work`; those of dead processes are removed on the way."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        for leftover in work.glob("scratch-*-*"):
            owner = leftover.name.rpartition("-")[2]
            if owner.isdigit() and not _is_alive(int(owner)):
                shutil.rmtree(leftover, ignore_errors=True)
        folder = work / f"scratch-{uuid.uuid4().hex[:12]}-{os.getpid()}"
        folder.mkdir()
    except OSError as error:
        raise from_os_error(error, str(work)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _search_unique(
    run: Mmseqs, folder: Path, queries: Sequence[str], targets: Sequence[str] | None, options: Sequence[str]
) -> pd.DataFrame:
    """Hits between unique sequences by their numbers; `targets` None searches the queries in themselves."""
    query_db = run.create_database(folder / "queries", queries)
    target_db = query_db if targets is None else run.create_database(folder / "targets", targets)
    hits, table = folder / "hits", folder / "hits.tsv"
    fixed = ["--alignment-mode", "3", "--remove-tmp-files", "1"]
    run("search", str(query_db), str(target_db), str(hits), str(folder / "tmp"), *options, *fixed)
    columns = ["--format-output", ",".join(HIT_COLUMNS)]
    run("convertalis", str(query_db), str(target_db), str(hits), str(table), *columns)
    if table.stat().st_size == 0:
        return _empty_hits()
    found = pd.read_csv(table, sep="\t", header=None, names=list(HIT_COLUMNS), dtype=_HIT_TYPES)
    return found.sort_values(["query", "target"], kind="stable", ignore_index=True)


def _cluster_unique(run: Mmseqs, folder: Path, unique: Sequence[str], method: str, options: Sequence[str]) -> IntArray:
    """Number of the centre of each unique sequence."""
    database = str(run.create_database(folder / "proteins", unique))
    clusters, hits, table = str(folder / "clusters"), str(folder / "hits"), folder / "clusters.tsv"
    fixed = [str(folder / "tmp"), *options, "--remove-tmp-files", "1"]
    if method == "exhaustive":
        every = ["--max-seqs", str(len(unique)), "--alignment-mode", "3", *EXHAUSTIVE]
        run("search", database, database, hits, *fixed, *every)
        run("clust", database, hits, clusters)
    else:
        run(method, database, clusters, *fixed)
    run("createtsv", database, database, clusters, str(table))
    pairs = pd.read_csv(table, sep="\t", header=None, names=["centre", "member"], dtype=np.int64)
    centres = np.arange(len(unique), dtype=np.int64)
    centres[pairs["member"].to_numpy()] = pairs["centre"].to_numpy()
    return centres


def _with_twins(found: pd.DataFrame, queries: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
    """Add the hit of every sequence on itself where k-mers or the E-value did not find it; marks them all `same`."""
    number = {sequence: row for row, sequence in enumerate(targets)}
    same = np.fromiter((number.get(sequence, -1) for sequence in queries), np.int64, len(queries))
    is_same = found["target"].to_numpy() == same[found["query"].to_numpy()]
    known = np.zeros(len(queries), np.bool_)
    known[found["query"].to_numpy()[is_same]] = True
    missing = np.flatnonzero(~known & (same >= 0))
    twins = pd.DataFrame(
        {
            "query": missing,
            "target": same[missing],
            "bits": np.asarray([_self_bits(queries[int(row)]) for row in missing], np.float32),
            **{name: np.ones(len(missing), np.float32) for name in ("fident", "qcov", "tcov")},
        }
    )
    return pd.concat([found.assign(same=is_same), twins.assign(same=True)], ignore_index=True)


def _self_bits(sequence: str) -> float:
    """Bit score of an ungapped alignment with itself; never below zero."""
    score = sum(_SELF_SCORES.get(residue, -1) for residue in sequence)
    return max(0.0, (_LAMBDA * score - float(np.log(_K))) / float(np.log(2.0)))


def _expand(found: pd.DataFrame, query_rows: IntArray, target_rows: IntArray) -> pd.DataFrame:
    """From numbers of unique sequences to rows of proteins; one hit becomes one per pair of equal proteins."""
    by_query = pd.DataFrame({"query": query_rows, "query_row": np.arange(len(query_rows))})
    by_target = pd.DataFrame({"target": target_rows, "target_row": np.arange(len(target_rows))})
    joined = found.merge(by_query, on="query").merge(by_target, on="target")
    return joined.drop(columns=["query", "target"]).rename(columns={"query_row": "query", "target_row": "target"})


def _best_hits(hits: pd.DataFrame, target_ids: Sequence[str], max_hits: int) -> pd.DataFrame:
    """The best `max_hits` of each query; equal scores go to equal sequences first, then by target id."""
    rank = np.empty(len(target_ids), np.int64)
    rank[np.argsort(np.asarray(target_ids, dtype=object), kind="stable")] = np.arange(len(target_ids))
    hits = hits.assign(rank=rank[hits["target"].to_numpy()])
    ordered = hits.sort_values(["query", "bits", "same", "rank"], ascending=[True, False, False, True], kind="stable")
    kept = ordered[ordered.groupby("query").cumcount() < max_hits]
    # Equal sequences only had to survive the cut; the order that is promised does not favour them.
    kept = kept.sort_values(["query", "bits", "rank"], ascending=[True, False, True], kind="stable", ignore_index=True)
    return kept.astype(_HIT_TYPES)[list(HIT_COLUMNS)]


def _empty_hits() -> pd.DataFrame:
    return pd.DataFrame({name: np.empty(0, kind) for name, kind in _HIT_TYPES.items()})
