from __future__ import annotations

from pathlib import Path

from services.train.data.planted import write_planted
from shared.config.load import load_config


def test_the_config_trains_on_the_written_files(tmp_path: Path) -> None:
    config = load_config(write_planted(tmp_path, 3, permute_labels=False), environment={}).config
    assert config.data.train_fasta is not None
    assert list(config.level1.models) == ["mlp", "cnn"]


def test_permuted_labels_keep_their_counts_and_lose_their_proteins(tmp_path: Path) -> None:
    write_planted(tmp_path / "true", 3, permute_labels=False)
    write_planted(tmp_path / "permuted", 3, permute_labels=True)
    tables = [(tmp_path / name / "train_terms.tsv").read_text().splitlines() for name in ("true", "permuted")]
    true, permuted = ([line.split("\t") for line in lines[1:]] for lines in tables)
    assert tables[0][0] == tables[1][0]
    assert sorted(row[1] for row in true) == sorted(row[1] for row in permuted)
    assert {row[0] for row in true} == {row[0] for row in permuted}
    kept = {(row[0], row[1]) for row in true} & {(row[0], row[1]) for row in permuted}
    assert len(kept) < 0.4 * len(true)
    for name in ("train.fasta", "truth_sites.tsv"):
        assert (tmp_path / "true" / name).read_bytes() == (tmp_path / "permuted" / name).read_bytes()
