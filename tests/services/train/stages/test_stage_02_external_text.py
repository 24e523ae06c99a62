from __future__ import annotations

import datetime
from pathlib import Path

import pandas as pd
import pytest
from fakes.contexts import output, output_bytes, run_stage
from fakes.flat_entries import entry
from fakes.uniprot_server import UniprotServer, serving, status

from services.train.stages.stage_02_external_text import STAGE
from shared.config import Config, TextConfig
from shared.errors import ConfigError, DataError, ServiceUnavailable

TRAIN, TEST = ["P00003", "P00001", "P00002"], ["P00009", "P00001"]


def run(root: Path, path: Path | None = None, train=TRAIN, test=TEST, **text):
    inputs = {
        f"parsed/{part}_seq.feather": pd.DataFrame({"id": ids, "sequence": "M"})
        for part, ids in (("train", train), ("test", test))
    }
    files = {} if path is None else {"data.text": path}
    return run_stage(STAGE, root, inputs, Config(text=TextConfig(**text)), files)


def table(ctx) -> dict[str, str]:
    frame = output(ctx, "external/entryid_text.tsv")
    assert list(frame.columns) == ["EntryID", "text"]
    return dict(zip(frame["EntryID"], frame["text"], strict=True))


def manifest(ctx) -> dict:
    return output(ctx, "external/text_manifest.json")


def flat(root: Path, *entries: str) -> Path:
    path = root / "records.txt"
    path.write_text("".join(entries))
    return path


def test_texts_come_in_row_order_train_then_test_each_protein_once(tmp_path):
    path = flat(tmp_path, *(entry(name) for name in ("P00009", "P00001", "X00000", "P00003")))
    ctx = run(tmp_path, path)
    assert list(table(ctx)) == ["P00003", "P00001", "P00009"]
    assert manifest(ctx)["modality"] == "present"
    assert manifest(ctx)["counts"]["with_text"] == 3
    assert (ctx.staging / "external/entryid_text.tsv").read_text().count("\n") == 4


def test_quotes_in_a_text_survive_the_round_trip(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text('P00001\tthe "5\'-cap" and a "\n')
    assert table(run(tmp_path, path)) == {"P00001": 'the "5\'-cap" and a "'}


def test_records_that_changed_after_the_date_are_dropped_and_counted(tmp_path):
    path = flat(tmp_path, entry("P00001", date="02-MAR-2021"), entry("P00002", date="01-MAR-2021"))
    ctx = run(tmp_path, path, frozen_at=datetime.date(2021, 3, 1))
    assert list(table(ctx)) == ["P00002"]
    assert manifest(ctx)["counts"]["changed_after_frozen_at"] == 1
    assert manifest(ctx)["frozen_at"] == "2021-03-01"


def test_of_several_records_the_newest_not_after_the_date_is_taken(tmp_path):
    versions = [entry("P00001", date=f"01-JAN-{year}").replace("Periplasm", f"Y{year}") for year in (2019, 2021, 2020)]
    path = flat(tmp_path, *versions)
    assert "Y2021" in table(run(tmp_path, path))["P00001"]
    assert "Y2020" in table(run(tmp_path, path, frozen_at=datetime.date(2020, 6, 1)))["P00001"]


def test_an_own_record_beats_one_that_has_the_accession_as_a_secondary_one(tmp_path):
    other = entry("P00009", "P00001", "P00002", date="11-DEC-2022").replace("Periplasm", "OTHER")
    ctx = run(tmp_path, flat(tmp_path, other, entry("P00001")))
    found = table(ctx)
    assert ("OTHER" in found["P00001"], "OTHER" in found["P00002"], "OTHER" in found["P00009"]) == (False, True, True)
    assert manifest(ctx)["counts"]["by_secondary_accession"] == 1


def test_the_rule_is_applied_and_recorded(tmp_path):
    ctx = run(tmp_path, flat(tmp_path, entry("P00001")), drop_lines=["go", "function", "keywords", "location"])
    text = table(ctx)["P00001"]
    assert not [word for word in ("GO:", "iron-sulfur", "Shuttles", "Periplasm", "transport") if word in text]
    assert manifest(ctx)["rule"] == {
        "version": 1,
        "drop_lines": ["function", "go", "keywords", "location"],
        "dropped_kinds": ["comment FUNCTION", "comment SUBCELLULAR LOCATION", "go", "keywords"],
        "go_ids_removed": True,
        "not_applicable": [],
    }


def test_a_table_says_which_rules_and_dates_could_not_be_applied(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("EntryID\ttext\nP00001\tkinase GO:0004672 activity\nP00002\tGO:0004672\n")
    ctx = run(tmp_path, path, drop_lines=["go", "function"], frozen_at=datetime.date(2020, 1, 1))
    assert table(ctx) == {"P00001": "kinase activity"}
    assert manifest(ctx)["rule"]["not_applicable"] == ["function"]
    assert manifest(ctx)["counts"]["undated"] == 2
    assert manifest(ctx)["counts"]["empty_after_rule"] == 1
    assert "text.frozen_at was not checked" in (tmp_path / "logs/run.jsonl").read_text()


def test_a_folder_of_flat_files_is_read_as_one(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "b.txt").write_text(entry("P00001"))
    (folder / "a.dat").write_text(entry("P00002"))
    (folder / "c.xml").write_text("<entry/>")
    ctx = run(tmp_path, folder)
    assert list(table(ctx)) == ["P00001", "P00002"]
    assert manifest(ctx)["source"] == {"kind": "flat-file", "files": 2}


def test_without_text_the_modality_is_absent(tmp_path):
    ctx = run(tmp_path)
    assert (ctx.staging / "external/entryid_text.tsv").read_bytes() == b"EntryID\ttext\n"
    assert manifest(ctx)["modality"] == "absent"


def test_text_about_other_proteins_is_bad_data(tmp_path):
    with pytest.raises(DataError, match=r"no protein.*records\.txt"):
        run(tmp_path, flat(tmp_path, entry("X00000")))


def test_when_the_date_leaves_nothing_the_modality_is_absent_with_a_warning(tmp_path):
    ctx = run(tmp_path, flat(tmp_path, entry("P00001")), frozen_at=datetime.date(2001, 1, 1))
    assert (table(ctx), manifest(ctx)["modality"]) == ({}, "absent")
    assert "no protein has text" in (tmp_path / "logs/run.jsonl").read_text()


def test_a_file_and_the_network_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match=r"text\.fetch"):
        run(tmp_path, flat(tmp_path, entry("P00001")), fetch=True)


def test_fetched_text_equals_text_from_the_same_records_in_a_file(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    records = {name: entry(name) for name in ("P00001", "P00002", "P00009")}
    from_file = run(tmp_path, flat(tmp_path, *records.values()), train=[*TRAIN, "my_protein"])
    with serving(UniprotServer(records, rule=status(403))) as server:
        options = {"fetch": True, "url": server.url, "requests_per_second": 1000.0, "batch_size": 2}
        with pytest.raises(ServiceUnavailable):
            run(tmp_path, train=[*TRAIN, "my_protein"], **options)
        server.rule = None
        fetched = run(tmp_path, train=[*TRAIN, "my_protein"], **options)
        requests = len(server.asked)
        assert table(fetched) == table(from_file)
        first = output_bytes(fetched)
        again = run(tmp_path, train=[*TRAIN, "my_protein"], **options)
        assert output_bytes(again) == first
        assert len(server.asked) == requests
    source = manifest(fetched)["source"]
    assert source == {
        "kind": "uniprot-rest",
        "url": server.url,
        "releases": ["2024_01"],
        "unknown": 1,
        "not_accessions": 1,
    }


def test_how_politely_one_asks_is_not_in_the_fingerprint():
    one, other = TextConfig(batch_size=10, requests_per_second=1.0), TextConfig()
    assert one.fingerprint_values() == other.fingerprint_values()
    assert TextConfig(drop_lines=["go", "function"]).fingerprint_values() != other.fingerprint_values()
