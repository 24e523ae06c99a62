from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.train.vector_cache import VectorCache
from shared.errors import CannotWrite

DIM = 5


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def vectors(numbers: list[int]) -> np.ndarray:
    return np.stack([np.arange(DIM) + number for number in numbers]).astype(np.float16)


def write(folder: Path, numbers: list[int]) -> None:
    with VectorCache(folder, DIM, {}) as cache:
        cache.append([key(n) for n in numbers], vectors(numbers))


def found(folder: Path, numbers: list[int]) -> set[int]:
    """Numbers whose vector is there; every one that is must be right."""
    with VectorCache(folder, DIM, {}) as cache:
        there = cache.load(key(n) for n in numbers)
        numbers = [n for n in numbers if key(n) in there]
        for number in numbers:
            assert np.array_equal(cache[key(number)], vectors([number])[0])
        return set(numbers)


def test_vectors_come_back_bit_for_bit(tmp_path) -> None:
    write(tmp_path, [3, 1, 2])
    assert found(tmp_path, [1, 2, 3, 4]) == {1, 2, 3}
    write(tmp_path, [4])
    assert found(tmp_path, [1, 2, 3, 4]) == {1, 2, 3, 4}
    assert len(list(tmp_path.glob("shard-*.bin"))) == 2


def test_what_is_known_is_not_kept_twice(tmp_path) -> None:
    write(tmp_path, [1])
    with VectorCache(tmp_path, DIM, {}) as cache:
        cache.load([key(1), key(2)])
        cache.append([key(1), key(2)], vectors([1, 2]))
    assert sum(path.stat().st_size for path in tmp_path.glob("shard-*.bin")) == 2 * cache.record.itemsize


@given(cut=st.integers(0, 3 * (32 + 2 * DIM + 16)), flip=st.none() | st.integers(0, 3 * (32 + 2 * DIM + 16) - 1))
def test_a_torn_tail_or_a_flipped_byte_costs_only_its_own_records(cut: int, flip: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, [0, 1, 2])
        path = folder / "shard-00000.bin"
        data = bytearray(path.read_bytes())
        size = len(data) // 3
        if flip is not None:
            data[flip] ^= 1
        path.write_bytes(data[:cut])
        whole = {n for n in range(3) if (n + 1) * size <= cut and (flip is None or flip // size != n)}
        assert found(folder, [0, 1, 2]) == whole
        write(folder, [n for n in range(3) if n not in whole] or [9])
        assert found(folder, [0, 1, 2]) == {0, 1, 2}


def test_damage_is_counted(tmp_path) -> None:
    write(tmp_path, [1])
    path = tmp_path / "shard-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with VectorCache(tmp_path, DIM, {}) as cache:
        assert cache.load([key(1)]) == set()
        assert cache.damaged == 1


def test_writers_at_the_same_time_do_not_mix(tmp_path) -> None:
    VectorCache(tmp_path, DIM, {})
    writers = [threading.Thread(target=write, args=(tmp_path, list(range(10 * w, 10 * w + 10)))) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert found(tmp_path, list(range(40))) == set(range(40))


def test_a_full_disk_is_named(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(CannotWrite, match="disk is full"):
        write(tmp_path, [1])
