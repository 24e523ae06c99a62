from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from services.train.data import demo
from services.train.data.demo import Entry, make_entries, write_demo
from services.train.data.demo_proteins import BACKGROUND
from services.train.data.motifs import AMINO_ACIDS, MOTIFS, Motif
from services.train.goa.gaf import GafHeader, read_gaf
from shared.config import DataConfig
from shared.fasta import read_fasta
from shared.ontology import ASPECTS, Ontology, normalise_aspect

SEED = 2024
BY_TERM = {motif.term: motif for motif in MOTIFS}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    """All proteins of the demo."""
    counts = demo.SIZES["demo"]
    return make_entries(counts.train + counts.test, np.random.default_rng([SEED, len("demo")]))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the smoke data."""
    return write_demo(tmp_path_factory.mktemp("smoke"), size="smoke", seed=SEED)


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def sequences(written: dict[str, Path]) -> dict[str, str]:
    files = (written["train_fasta"], written["test_fasta"])
    return {record.id: record.sequence for path in files for record in read_fasta(path)}


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(written: dict[str, Path], tmp_path: Path) -> None:
    for folder, seed in (("again", SEED), ("other", SEED + 1)):
        (tmp_path / folder).mkdir()
        copy = write_demo(tmp_path / folder, size="smoke", seed=seed)
        assert copy.keys() == written.keys()
        same = {key: copy[key].read_bytes() == written[key].read_bytes() for key in copy}
        if seed == SEED:
            assert all(same.values())
        else:
            assert {key for key, equal in same.items() if equal} == {"obo"}


def test_every_file_has_a_config_key_but_the_sites(written: dict[str, Path]) -> None:
    assert set(written) - set(DataConfig.input_files()) == {"sites"}
    assert all(path.is_file() for path in written.values())


def test_smoke_is_about_a_hundred_proteins(written: dict[str, Path]) -> None:
    assert 90 <= len(sequences(written)) <= 110


def test_no_protein_matches_a_motif_other_than_where_it_was_planted(entries: list[Entry]) -> None:
    for entry in entries:
        for motif in MOTIFS:
            found = [match.constrained for match in motif.pattern.occurrences(entry.protein.sequence)]
            planted = entry.protein.sites.get(motif.term)
            assert found == ([] if planted is None else [planted])


def test_a_motif_and_its_term_go_together(entries: list[Entry]) -> None:
    for entry in entries:
        assert set(entry.terms) & set(BY_TERM) == set(entry.protein.sites)


def test_written_sites_are_the_constrained_positions_of_a_match(written: dict[str, Path]) -> None:
    header, *lines = rows(written["sites"])
    assert header == ["accession", "term", "position"]
    positions: dict[tuple[str, str], list[int]] = {}
    for accession, term, position in lines:
        positions.setdefault((accession, term), []).append(int(position) - 1)
    labelled = {(a, t) for key in ("train_terms", "test_terms") for a, t, _ in rows(written[key]) if t in BY_TERM}
    assert positions.keys() == labelled
    proteins = sequences(written)
    for (accession, term), sites in positions.items():
        matches = BY_TERM[term].pattern.occurrences(proteins[accession])
        assert [match.constrained for match in matches] == [tuple(sites)]


def test_sequences_are_natural_in_length_and_composition(entries: list[Entry]) -> None:
    lengths = [len(entry.protein.sequence) for entry in entries]
    assert 80 <= min(lengths) < max(lengths) <= 360
    counts = Counter("".join(entry.protein.sequence for entry in entries))
    found = np.array([counts[residue] for residue in AMINO_ACIDS]) / sum(lengths)
    assert set(counts) == set(AMINO_ACIDS)
    np.testing.assert_allclose(found, BACKGROUND, atol=0.008)


@pytest.mark.parametrize("motif", MOTIFS, ids=lambda motif: motif.accession)
def test_composition_and_length_do_not_give_a_motif_away(entries: list[Entry], motif: Motif) -> None:
    proteins = [entry.protein for entry in entries]
    has = np.array([motif.term in protein.sites for protein in proteins])
    counts = np.array([[protein.sequence.count(residue) for residue in AMINO_ACIDS] for protein in proteins], float)
    lengths = counts.sum(axis=1, keepdims=True)
    inputs = np.hstack([counts / lengths, counts / 10, lengths / 100])
    scores = cross_val_predict(LogisticRegression(max_iter=1000), inputs, has, cv=5, method="decision_function")
    assert roc_auc_score(has, scores) < 0.65
    own = [AMINO_ACIDS.index(residue) for residue in set(motif.typical)]
    assert counts[has][:, own].mean() == pytest.approx(counts[~has][:, own].mean(), rel=0.1)


@pytest.mark.parametrize("motif", MOTIFS, ids=lambda motif: motif.accession)
def test_families_do_not_give_a_motif_away(entries: list[Entry], motif: Motif) -> None:
    members: dict[int, list[bool]] = {}
    for entry in entries:
        members.setdefault(entry.protein.family, []).append(motif.term in entry.protein.sites)
    mixed = sum(any(carries) and not all(carries) for carries in members.values())
    carrying = sum(any(carries) for carries in members.values())
    assert carrying >= 10
    assert mixed >= 0.8 * carrying
    assert sum(not any(carries) for carries in members.values()) >= 5


def test_labels_name_the_most_specific_terms_of_the_ontology(entries: list[Entry]) -> None:
    ontology = Ontology.parse(demo.ONTOLOGY)
    for entry in entries:
        indices = [ontology.index[term] for term in entry.terms]
        for term, index in zip(entry.terms, indices, strict=True):
            assert ASPECTS[ontology.aspects[index]] == normalise_aspect(demo.aspect_code(term))
            assert not (set(ontology.ancestors(index).tolist()) - {index}) & set(indices)
    seen = {ASPECTS[ontology.aspects[ontology.index[term]]] for entry in entries for term in entry.terms}
    assert seen == set(ASPECTS)


def test_the_ontology_is_closed_under_parents_and_small() -> None:
    ontology = Ontology.parse(demo.ONTOLOGY)
    assert 100 < len(ontology) < 300
    assert set(ontology.roots) == set(ASPECTS)
    assert "CC BY 4.0" in demo.ONTOLOGY.read_text(encoding="utf-8")[:600]


@pytest.mark.real_data
def test_the_ontology_states_what_the_gene_ontology_states(gowhy_data: Path) -> None:
    real = Ontology.parse(gowhy_data / "go" / "go-basic.obo.gz")
    own = Ontology.parse(demo.ONTOLOGY)
    for index, term in enumerate(own.terms):
        there = real.index[term]
        assert own.names[index] == real.names[there]
        assert own.aspects[index] == real.aspects[there]
        assert {own.terms[p] for p in own.parents[index]} == {real.terms[p] for p in real.parents[there]}


def test_goa_rows_are_mostly_electronic_with_some_experimental_and_negated(written: dict[str, Path]) -> None:
    header = GafHeader()
    known = {accession.encode(): place for place, accession in enumerate(sequences(written))}
    annotations = list(read_gaf(written["gaf"], known, header))
    assert header.version == "2.2"
    assert len(annotations) == header.rows
    codes = Counter(row.code for row in annotations)
    assert codes[b"IEA"] > codes[b"IDA"] > 0
    assert any(row.qualifier.startswith(b"NOT|") for row in annotations)


def test_text_covers_some_proteins_and_names_no_motif(written: dict[str, Path]) -> None:
    header, *lines = rows(written["text"])
    assert header == ["EntryID", "text"]
    accessions = [line[0] for line in lines]
    assert 0.4 < len(set(accessions)) / len(sequences(written)) < 0.95
    text = " ".join(line[1] for line in lines).lower()
    assert not any(word in text for word in ("zinc", "calcium", "atp", "helicase", "serine", "finger"))
