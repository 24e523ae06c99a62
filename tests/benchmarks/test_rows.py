"""The rows' two sides agree on small inputs; a side that is wrong shows."""

import numpy as np

from benchmarks import synthetic
from benchmarks.rows import gaf, knn_reference, parsing
from shared.fasta import read_fasta
from shared.ontology import ASPECTS, Ontology


def test_parsing_and_the_loops_agree(tmp_path):
    parsing.write_files(tmp_path, 300)
    ours, theirs = parsing.ours(tmp_path).comparable(), parsing.loops(tmp_path).comparable()
    assert np.array_equal(ours, theirs)
    lines = (tmp_path / "terms.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "terms.tsv").write_text("".join(lines[:-1]))
    assert not np.array_equal(parsing.ours(tmp_path).comparable(), theirs)


def test_kept_annotations_are_those_of_a_plain_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(gaf, "ROWS", 4000)
    monkeypatch.setattr(gaf, "PROTEINS", 200)
    gaf.write_files(tmp_path, 8000)
    ontology = Ontology.parse(tmp_path / "go.obo")
    number = {term: place for place, term in enumerate(sorted(ontology.terms))}
    wanted = {name: place for place, name in enumerate((tmp_path / "wanted.txt").read_text().split())}
    assert len(wanted) == 20
    expected = set()
    for line in gaf.gzip.open(tmp_path / "goa.gaf.gz", "rt"):
        cells = line.split("\t")
        if line.startswith("!") or cells[1] not in wanted or cells[6] in gaf.DROPPED or cells[13] > "20250630":
            continue
        if not cells[3].startswith("NOT"):
            expected.add(wanted[cells[1]] * len(number) + number[cells[4]])
    assert len(expected) > 50
    assert gaf.ours(tmp_path).tolist() == sorted(expected)


def test_the_three_forms_of_the_reference_predict_the_same(monkeypatch):
    monkeypatch.setattr(knn_reference, "PROTEINS", 200)
    lines = knn_reference.compare(1)
    assert [line.peer for line in lines] == ["plain", "gz", "full"]
    assert all(line.difference == 0 for line in lines)


def test_generated_inputs_are_read_back(tmp_path):
    dag = synthetic.make_dag(300)
    synthetic.write_obo(tmp_path / "go.obo", dag)
    ontology = Ontology.parse(tmp_path / "go.obo")
    assert len(ontology) == 300
    assert set(ontology.roots) == set(ASPECTS)
    ids, residues = synthetic.protein_ids(25), synthetic.sequences(25)
    synthetic.write_fasta(tmp_path / "p.fasta", ids, residues)
    records = list(read_fasta(tmp_path / "p.fasta"))
    assert [(record.id, record.sequence) for record in records] == list(zip(ids, residues, strict=True))
    same = np.mean([a == b for a, b in zip(residues[0], residues[1], strict=True)])
    assert 0.3 < same < 0.5  # two members keep the centre's residue with 0.6 each
    assert synthetic.labels(25, dag) == synthetic.labels(25, dag)
