from __future__ import annotations

import gzip
import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.train.goa.gaf import GafHeader, GafRow, read_gaf
from shared.errors import DataError

WORD = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), max_size=8).map(str.encode)
ID = st.sampled_from([b"P12345", b"Q9H6R0", b"A0A023PXA5", b"other"])
LINE = st.tuples(WORD.filter(lambda db: not db.startswith(b"!")), ID, *[WORD] * 15, st.integers(15, 17))


def gaf_line(protein="P12345") -> str:
    columns = ("UniProtKB", protein, "SYM", "involved_in", "GO:0000001", "GO_REF:1", "IEA", "", "P", "", "", "protein")
    return "\t".join((*columns, "taxon:9606", "20200101", "UniProt", "", ""))


def write_gaf(path: Path, *lines: str, version: str | None = "2.2") -> Path:
    header = [] if version is None else [f"!gaf-version: {version}", "!", "!Generated: 2021-05-01 09:46"]
    data = "".join(f"{line}\n" for line in (*header, *lines)).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


@settings(max_examples=50)
@given(lines=st.lists(LINE, max_size=30), packed=st.booleans())
def test_what_a_writer_wrote_is_read_back(tmp_path_factory, lines, packed):
    path = tmp_path_factory.mktemp("gaf") / ("a.gaf.gz" if packed else "a.gaf")
    text = b"!gaf-version: 2.2\n" + b"".join(b"\t".join(line[: line[17]]) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text) if packed else text)
    header = GafHeader()
    rows = list(read_gaf(path, {b"P12345": 0, b"Q9H6R0": 1, b"A0A023PXA5": 2}, header))
    numbers = {b"P12345": 0, b"Q9H6R0": 1, b"A0A023PXA5": 2}
    expected = [
        GafRow(number, numbers[line[1]], line[3], line[4], line[6], line[8], line[13])
        for number, line in enumerate(lines, start=2)
        if line[1] in numbers
    ]
    assert rows == expected
    assert header.rows == len(lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("UniProtKB\tP12345\tSYM", r"3 columns.*bad\.gaf:5"),
        ("no tabs at all", r"1 columns.*bad\.gaf:5"),
        ("\t".join("x" * 18), r"18 columns.*bad\.gaf:5"),
    ],
)
def test_a_line_with_a_wrong_number_of_columns_is_named_even_if_nobody_wants_it(tmp_path, line, message):
    path = write_gaf(tmp_path / "bad.gaf", gaf_line(), line)
    with pytest.raises(DataError, match=message):
        list(read_gaf(path, {}, GafHeader()))


def test_a_truncated_gzip_file_is_bad_data(tmp_path):
    path = write_gaf(tmp_path / "cut.gaf.gz", *[gaf_line(f"P{i:05d}") for i in range(3000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"ends early.*cut\.gaf\.gz"):
        list(read_gaf(path, {b"P00001": 0}, GafHeader()))


@pytest.mark.parametrize("first", ["!gaf-version: 1.0", "!gaf-version: 3.0", "!gpa-version: 1.1", "!gpi-version: 2.1"])
def test_other_formats_and_versions_are_refused(tmp_path, first):
    path = write_gaf(tmp_path / "old.gaf", first, gaf_line(), version=None)
    with pytest.raises(DataError, match=r"old\.gaf:1"):
        list(read_gaf(path, {}, GafHeader()))


def test_the_header_is_read_and_a_late_comment_is_not_one(tmp_path):
    path = write_gaf(tmp_path / "a.gaf", gaf_line(), "!gaf-version: 9.9")
    header = GafHeader()
    list(read_gaf(path, {}, header))
    assert (header.version, header.generated, header.rows) == ("2.2", "2021-05-01 09:46", 1)


@pytest.mark.real_data
def test_real_files_are_read(gowhy_data):
    fixtures = gowhy_data / "fixtures"
    header = GafHeader()
    rows = list(read_gaf(fixtures / "goa_yeast.gaf", {b"A0A023PXB5": 7}, header))
    assert (header.version, header.generated, header.rows) == ("2.1", "2016-10-03 09:46", 587)
    assert [(row.line, row.term, row.code) for row in rows] == [
        (19, b"GO:0003674", b"ND"),
        (20, b"GO:0005575", b"ND"),
        (21, b"GO:0008150", b"ND"),
        (22, b"GO:0016021", b"IEA"),
    ]
    with pytest.raises(DataError, match="a GPAD file"):
        list(read_gaf(fixtures / "goa_yeast.gpa.59.gpa", {}, GafHeader()))
    header = GafHeader()
    wanted = {b"P40078": 0}
    rows = list(read_gaf(fixtures / "goa_uniprot_all.HTP.2021-04.gaf.gz", wanted, header))
    assert header == GafHeader(None, None, None, 42172)
    assert rows[0] == GafRow(1, 0, b"part_of", b"GO:0030687", b"HDA", b"C", b"20080825")


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    try:
        for _row in read_gaf(path, {b"P00000001": 0}, GafHeader()):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_long_gaf(path: Path, lines: int) -> Path:
    with path.open("w") as file:
        file.write("!gaf-version: 2.2\n")
        file.writelines(gaf_line(f"P{i:08d}") + "\n" for i in range(lines))
    return path


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = [peak_bytes(write_long_gaf(tmp_path / f"{lines}.gaf", lines)) for lines in (20_000, 80_000)]
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.slow
def test_two_million_lines_take_little_memory(tmp_path):
    path = write_long_gaf(tmp_path / "long.gaf", 2_000_000)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    header = GafHeader()
    rows = list(read_gaf(path, {b"P01999999": 0}, header))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert (len(rows), header.rows) == (1, 2_000_000)
    assert grown_kb < 20_000  # the file has 200 MB
