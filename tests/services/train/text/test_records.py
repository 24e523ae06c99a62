"""Flat files, tables, and the rule that takes out what states the label."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path

import pytest
from fakes.flat_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from services.train.text.flatfile import parse_flat_text, read_flat_file
from services.train.text.record import DROPPED_KINDS, TextRecord, compose
from services.train.text.sources import TextFiles
from services.train.text.table import read_table
from shared.errors import DataError, MissingInput


def parse(text: str) -> list[TextRecord]:
    return parse_flat_text(text.encode(), "records.txt")


def test_a_record_is_read_in_parts():
    (record,) = parse(entry("P0A186", "O07829"))
    assert record.accessions == ("P0A186", "O07829")
    assert record.changed == datetime.date(2019, 12, 11)
    assert [kind for kind, _text in record.parts] == [
        "names",
        "organism",
        "title",
        "comment FUNCTION",
        "comment SUBCELLULAR LOCATION",
        "comment SIMILARITY",
        "go",
        "domains",
        "keywords",
    ]


def test_nothing_that_states_the_label_is_left_under_the_full_rule():
    (record,) = parse(entry("P0A186"))
    assert compose(record, DROPPED_KINDS) == (
        'RecName: Full=Ferredoxin component; Pseudomonas sp. "Metabolism of dibenzo-thiophene."; '
        "Belongs to the ferredoxin family. Rieske"
    )


@pytest.mark.parametrize(
    ("rule", "statement"),
    [
        ("go", "iron-sulfur binding"),
        ("go", "GO:0009055"),
        ("function", "Shuttles electrons"),
        ("keywords", "Electron transport"),
        ("location", "Periplasm"),
    ],
)
def test_each_rule_takes_out_its_own_lines_and_no_others(rule, statement):
    (record,) = parse(entry("P0A186"))
    assert statement not in compose(record, [rule])
    assert statement in compose(
        record, set(DROPPED_KINDS) - {rule} - ({"function"} if "0009055" in statement else set())
    )


@given(
    text=st.text(max_size=60),
    go_id=st.from_regex(r"[Gg][Oo][:_]\d{7}", fullmatch=True),
    drop=st.sets(st.sampled_from(sorted(DROPPED_KINDS))),
)
def test_the_text_is_one_line_without_tabs_and_the_rule_removes_every_go_id(text, go_id, drop):
    composed = compose(TextRecord(("P1",), None, (("text", f"{text} {go_id} {text}"),)), drop)
    assert len(composed.splitlines()) <= 1
    assert "\t" not in composed
    assert composed == " ".join(composed.split())
    assert (go_id in composed) == ("go" not in drop or go_id in text)


@given(
    st.builds(
        TextRecord,
        st.lists(st.text(), min_size=1).map(tuple),
        st.none() | st.dates(),
        st.lists(st.tuples(st.text(), st.text())).map(tuple),
    )
)
def test_records_survive_json(record):
    assert TextRecord.from_json(record.to_json()) == record


def test_only_wanted_records_are_given_also_by_secondary_accession(tmp_path):
    path = tmp_path / "a.dat.gz"
    path.write_bytes(gzip.compress("".join(entry(*a) for a in (("P1", "X1"), ("P2",), ("P3", "X3"))).encode()))
    assert [record.accessions[0] for record in read_flat_file(path, {"X1", "P2", "other"})] == ["P1", "P2"]


def test_line_ends_of_another_system_change_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(entry("P1").replace("\n", "\r\n").encode())
    assert list(read_flat_file(path, {"P1"})) == parse(entry("P1"))


def test_dates_of_old_releases_are_read():
    old = entry("P1").replace(
        "DT   11-DEC-2019, entry version 48.", "DT   01-OCT-1993 (Rel. 27, Last annotation update)"
    )
    assert parse(old)[0].changed == datetime.date(2005, 3, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry("P1") + entry("P2")[:-3], r"no end line.*records\.txt:"),
        (entry("P1") + "AC   P2;\n//\n", r"ID line.*records\.txt:25"),
        (entry("P1") + entry("P2").replace("AC ", "XX "), r"no AC line.*records\.txt:25"),
        (entry("P1", date="32-DEC-2019"), r"day .*records\.txt:1"),
        (entry("P1", date="11-DEZ-2019"), r"no date.*records\.txt:1"),
        ("<html>captive portal</html>\n", r"no end line.*records\.txt:1"),
    ],
)
def test_what_is_no_flat_file_is_named_with_its_line(text, message):
    with pytest.raises(DataError, match=message):
        parse(text)


def test_latin_1_is_refused():
    with pytest.raises(DataError, match=r"not UTF-8.*records\.txt:1"):
        parse_flat_text(entry("P1").replace("Periplasm", "P\xe9riplasme").encode("latin-1"), "records.txt")


@given(
    texts=st.dictionaries(
        st.from_regex(r"[A-Z][0-9]{5}", fullmatch=True),
        st.text(st.characters(exclude_characters="\t\n\r", codec="utf-8")),
    ),
    header=st.sampled_from(["", "EntryID\ttext\n", "Entry\tabstract\n"]),
)
def test_a_table_is_read_back_with_or_without_a_header(tmp_path_factory, texts, header):
    path = tmp_path_factory.mktemp("table") / "texts.tsv"
    path.write_bytes((header + "".join(f"{name}\t{text}\n" for name, text in texts.items())).encode())
    records = list(read_table(path, texts))
    assert {record.accessions[0]: record.parts for record in records} == {n: (("text", t),) for n, t in texts.items()}
    assert all(record.changed is None for record in records)


def test_a_table_keyed_by_fasta_names_joins_with_bare_accessions(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("sp|P12345|NAME_HUMAN\tkinase\n")
    assert [record.accessions for record in read_table(path, {"P12345"})] == [("P12345",)]


@pytest.mark.parametrize("line", [b"P1 no tab", b"P1\ta\tb", b"P1\t\xff"])
def test_a_wrong_table_line_is_named(tmp_path, line):
    path = tmp_path / "texts.tsv"
    path.write_bytes(b"EntryID\ttext\nP0\tok\n" + line + b"\n")
    with pytest.raises(DataError, match=r"texts\.tsv:3"):
        list(read_table(path, {"P0", "P1"}))


def test_a_folder_without_flat_files_is_missing_input(tmp_path):
    (tmp_path / "record.xml").write_text("<a/>")
    with pytest.raises(MissingInput, match=r"no \.txt"):
        TextFiles.find(tmp_path)


class Everything:
    def __contains__(self, _name: object) -> bool:
        return True


@pytest.mark.real_data
def test_real_records_are_read_and_the_rule_leaves_no_go_line(gowhy_data):
    files = TextFiles.find(gowhy_data / "fixtures/uniprot")
    assert files.kind == "flat-file"
    records = {record.accessions[0]: record for record in files.read(Everything(), lambda _done: None)}
    assert len(records) == 21
    assert records["P04439"].changed == datetime.date(2022, 10, 12)
    assert len(records["P04439"].accessions) == 136
    for record in records.values():
        assert "GO:" not in compose(record, ["go"])
        assert "ECO:" not in compose(record, [])
    naphthalene = records["P0A186"]
    assert (
        "comment PATHWAY",
        "Aromatic compound metabolism; naphthalene degradation. {ECO:0000305|PubMed:8226631}.",
    ) in naphthalene.parts
    assert [text for kind, text in naphthalene.parts if kind == "domains"][:2] == ["-", "Rieske 2Fe-2S"]


def test_memory_does_not_grow_with_unwanted_records(tmp_path: Path):
    import tracemalloc

    peaks = []
    for copies in (3_000, 12_000):
        path = tmp_path / f"{copies}.dat"
        path.write_text(entry("P1") * copies)
        tracemalloc.start()
        assert list(read_flat_file(path, {"other"})) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
