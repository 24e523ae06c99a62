from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.train import blocks
from services.train.blocks import read_blocks
from shared.errors import DataError, MissingInput


@given(
    data=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\n//\n", b""])).map(b"".join),
    size=st.integers(1, 7),
    packed=st.booleans(),
    separator=st.sampled_from([b"\n", b"\n//\n"]),
)
def test_blocks_hold_the_file_in_whole_records_whatever_the_block_size(tmp_path_factory, data, size, packed, separator):
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    found = list(read_blocks(path, separator, size))
    text = data.replace(b"\r", b"")
    assert b"".join(block.data for block in found) == text
    assert all(block.data.endswith(separator) for block in found[:-1])
    starts = [1 + b"".join(b.data for b in found[:i]).count(b"\n") for i in range(len(found))]
    assert [block.line for block in found] == starts
    if found:
        assert found[-1].consumed == path.stat().st_size


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: data[:40] + b"\0\1\2\3" + data[44:]])
def test_damaged_compression_is_bad_data_with_the_files_name(tmp_path: Path, damage):
    path = tmp_path / "goa.gaf.gz"
    path.write_bytes(damage(gzip.compress(bytes(range(256)) * 400)))
    with pytest.raises(DataError, match=r"damaged or ends early.*goa\.gaf\.gz"):
        list(read_blocks(path, b"\n"))


def test_a_missing_file_is_missing_input(tmp_path: Path):
    with pytest.raises(MissingInput, match="nowhere"):
        list(read_blocks(tmp_path / "nowhere", b"\n"))


def test_an_endless_record_is_refused_instead_of_filling_the_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(blocks, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "endless"
    path.write_bytes(b"ok\n" + b"x" * 300)
    with pytest.raises(DataError, match=r"longer than 100 bytes.*endless:2"):
        list(read_blocks(path, b"\n", 50))
