from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import fasta
from shared.errors import DataError, MissingInput
from shared.fasta import FastaRecord, normalise_id, parse_header, read_fasta, read_unique_fasta

IDS = st.from_regex(r"[A-Z][A-Z0-9]{1,8}", fullmatch=True)
SEQUENCES = st.text(st.sampled_from("ACDEFGHIKLMNPQRSTVWYUOBZXJ"), min_size=1, max_size=60)
STYLES = {
    "plain": ">{id}",
    "space": ">{id} {taxon}",
    "tab": ">{id}\t{taxon}",
    "uniprot": ">sp|{id}|NAME_X Some protein 3 OS=Homo sapiens OX={taxon} GN=A PE=1 SV=1",
    "both": ">{id} sp|{id}|NAME_X OX={taxon}",
    "short": ">{id} OX={taxon}",
}


def wrapped(sequence: str, width: int) -> str:
    return "\n".join(sequence[start : start + width] for start in range(0, len(sequence), width))


@given(
    proteins=st.dictionaries(
        IDS, st.tuples(SEQUENCES, st.integers(1, 10**7), st.sampled_from(sorted(STYLES))), min_size=1, max_size=6
    ),
    width=st.integers(1, 70),
    zipped=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    stop=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_in_any_style_is_read_back(tmp_path, *, proteins, width, zipped, newline, stop) -> None:
    text = ""
    expected, line = [], 1
    for protein, (sequence, taxon, style) in proteins.items():
        body = wrapped(sequence.lower() if stop else sequence, width) + ("*" if stop else "")
        text += f"{STYLES[style].format(id=protein, taxon=taxon)}\n{body}\n\n"
        expected.append(FastaRecord(protein, None if style == "plain" else taxon, sequence, line))
        line += 2 + len(body.splitlines())
    data = text.replace("\n", newline).encode()
    # The name does not say that it is gzip; the first bytes do.
    path = tmp_path / "proteins.fasta"
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    assert list(read_fasta(path)) == expected
    assert read_unique_fasta(path) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("sp|P12345|AATM_RABIT Aspartate OS=Oryctolagus OX=9986 GN=GOT2", ("P12345", 9986)),
        ("tr|A0A0|X OX=1", ("A0A0", 1)),
        ("P12345 sp|P12345|AATM_RABIT OX=9986", ("P12345", 9986)),
        ("P12345\t9986", ("P12345", 9986)),
        ("P12345 9986", ("P12345", 9986)),
        ("P12345", ("P12345", None)),
        ("P12345 30 kDa protein", ("P12345", None)),
        ("P12345-2 isoform", ("P12345-2", None)),
        ("sp|P12345|N OX=abc", ("P12345", None)),
    ],
)
def test_headers(header: str, expected: tuple[str, int | None]) -> None:
    assert parse_header(header) == expected


def test_ids_are_normalised_once_and_for_all() -> None:
    for word in ("sp|P1|N", "P1", "gi|5|x", "sp||N"):
        assert normalise_id(normalise_id(word)) == normalise_id(word)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"MKV\n>A\nMKV\n", 1, "before the first header"),
        (b"\n\nMKV\n", 3, "before the first header"),
        (b">A\nMKV\n>B\n\n>C\nMK\n", 3, "empty sequence"),
        (b">A\nMKV\n>B\n*\n", 3, "empty sequence"),
        (b">A\nMKV\nM-V\n", 3, "illegal character '-'"),
        (b">A\nMK*V\n", 2, "illegal character '*'"),
        (b">A\nMK*\nV\n", 2, "illegal character '*'"),
        (b">A\nMKV1\n", 2, "illegal character '1'"),
        (b">\nMKV\n", 1, "without an id"),
        (b">../../etc\nMKV\n", 1, "cannot be a protein id"),
        (b">\xff\xfe\nMKV\n", 1, "not UTF-8"),
        (b"", None, "no protein"),
        (b"\n \n", None, "no protein"),
    ],
)
def test_wrong_files_are_refused_with_the_line(tmp_path: Path, content: bytes, line: int | None, says: str) -> None:
    path = tmp_path / "bad.fasta"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_fasta(path))
    assert says in caught.value.what
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
    assert caught.value.remedy


def test_a_gzip_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.fasta.gz"
    whole = gzip.compress(b"".join(b">P%d\nMKVLA%d\n" % (i, 0) for i in range(500)).replace(b"0\n", b"\n"), mtime=0)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged gzip") as caught:
        list(read_fasta(path))
    assert ":" in str(caught.value.where)


def test_a_missing_file_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        list(read_fasta(tmp_path / "absent.fasta"))


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.fasta"
    path.write_text(">sp|P1|A\nMKV\n>P2\nMKV\n>P1 9606\nMKL\n")
    with pytest.raises(DataError, match="P1 is there twice, at lines 1 and 5"):
        read_unique_fasta(path)


def test_unusual_residues_and_white_space_are_kept_or_dropped(tmp_path: Path) -> None:
    path = tmp_path / "odd.fasta"
    path.write_bytes(b"\xef\xbb\xbf>A\n M K U \t O\n\nbzxj*\n")
    assert [r.sequence for r in read_fasta(path)] == ["MKUOBZXJ"]


@pytest.mark.real_data
def test_real_headers(gowhy_data: Path) -> None:
    train = read_unique_fasta(gowhy_data / "tiny" / "train_sequences.fasta")
    test = read_unique_fasta(gowhy_data / "tiny" / "testsuperset.fasta")
    assert (len(train), len(test)) == (240, 60)
    assert (train[0].id, train[0].taxon) == ("A0A059TC02", 4102)
    assert (test[0].id, test[0].taxon) == ("A0A0R4IUS5", 7955)


@pytest.mark.parametrize("part", [8, 50, 1 << 24])
def test_a_file_read_at_once_is_the_file_read_by_lines(tmp_path: Path, monkeypatch, part: int) -> None:
    """In parts of any size; what is unusual is left to the reader of lines."""
    monkeypatch.setattr(fasta, "_PART", part)
    path = tmp_path / "proteins.fasta"
    headers = [
        "sp|A1|x",
        "tr||y",
        "sp|A2",
        "sp|",
        "gi|5|x 7",
        " A3  12 ",
        "A4 12 13",
        "A5 OX=1 2",
        "A6 XOX=3",
        "A7 OX=",
        "A8 OX=5",
    ]
    headers += [
        "A9 \u00e4 OX=6",
        "B1 OX=12345678901234567890",
        "B2 \u00a0x",
        "B3 \x0b4",
        "OX=5 6",
        "B5 123a",
        "B6 OX=x OX=8 OX=9",
    ]
    path = tmp_path / "proteins.fasta"
    path.write_text("".join(f">{header}\nMK\n" for header in headers), encoding="utf-8")
    assert fasta._read_at_once(path).records() == list(read_fasta(path)) != []
    usual = b">sp|P1|A x OX=9606 y\nMKV\nmkl\n\n>P2\nMK*\n>P3\t12\r\nMKVLA\r\nWW\r\n>P4 OX=a OX=7\nACD"
    for content in (usual, usual + b"\n", b"\xef\xbb\xbf" + usual, gzip.compress(usual)):
        path.write_bytes(content)
        found = fasta._read_at_once(path).records()
        assert found == list(read_fasta(path))
        assert [record.line for record in found] == [1, 5, 7, 10]
    for content in (
        b"\n" + usual,
        b">P1\nM K\n",
        b">P1\nM-K\n",
        b">P1\n>P2\nMK\n",
        b">P1",
        b">P1\nMK\n>P1\nMK\n",
        b">a/b\nMK\n",
        b">-a\nMK\n",
        b">a\\b\nMK\n",
        b">" + 101 * b"a" + b"\nMK\n",
    ):
        path.write_bytes(content)
        assert fasta._read_at_once(path) is None


def test_marks_inside_headers_begin_no_protein(tmp_path: Path) -> None:
    path = tmp_path / "marks.fasta"
    path.write_bytes(b">P1 5'->3' helicase OX=9606\nMKL\nAC\n>P2 >>\nMK*\n\n")
    found = [(record.id, record.taxon, record.sequence, record.line) for record in read_unique_fasta(path)]
    assert found == [("P1", 9606, "MKLAC", 1), ("P2", None, "MK", 4)]


@pytest.mark.parametrize(
    "body", [b"MK*L\n", b"MK*\nL\n", b"M-K\n", b"M{K\n", b"M[K\n", b"M@K\n", b"M`K\n", b"*\n", b"\n\n"]
)
def test_the_quick_reader_leaves_what_is_wrong_to_the_other(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "wrong.fasta"
    path.write_bytes(b">P1\nMKL\n>P2\n" + body)
    with pytest.raises(DataError):
        read_unique_fasta(path)


def test_lower_case_becomes_upper_case(tmp_path: Path) -> None:
    path = tmp_path / "lower.fasta"
    path.write_bytes(b">P1\nmkLz\nay")
    assert [record.sequence for record in read_unique_fasta(path)] == ["MKLZAY"]
