"""Trimming the cache: by age, by size, never an input of a run, never under a running one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.train import cache as cache_module
from services.train.cache import DAY_S, in_use, parse_age, parse_size, trim
from services.train.cli import build_parser
from services.train.vector_cache import VectorCache
from shared.edge import main
from shared.errors import TryAgain, UsageError

REPOSITORY = Path(__file__).resolve().parents[3]
NOW = 2_000_000_000.0


def make(path: Path, size: int, days: float) -> None:
    """A file that was last used `days` ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - days * DAY_S,) * 2)


@pytest.fixture
def cache(tmp_path) -> Path:
    folder = tmp_path / "out/cache"
    make(folder / "embeddings/aa/shard-00000.bin", 500, days=40)
    make(folder / "embeddings/aa/about.json", 10, days=90)
    make(folder / "embeddings/bb/shard-00000.bin", 300, days=1)
    make(folder / "homology/search-1.parquet", 200, days=60)
    make(folder / "uniprot/x.jsonl", 100, days=10)
    make(folder / "demo-1/dataset.json", 20, days=70)
    make(folder / "demo-1/test_terms.tsv", 30, days=70)
    make(folder / "pending/push.json", 50, days=400)  # a store's, not ours
    return folder


def names(entries, cache: Path) -> list[str]:
    return sorted(entry.path.relative_to(cache).as_posix() for entry in entries)


def test_what_was_not_used_for_long_goes_whole(cache) -> None:
    done = trim(cache, max_age_s=30 * DAY_S, now=NOW)
    assert names(done.removed, cache) == ["demo-1", "embeddings/aa", "homology/search-1.parquet"]
    assert names(done.kept, cache) == ["embeddings/bb", "uniprot/x.jsonl"]
    left = sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() and p.name != ".lock")
    assert left == ["embeddings/bb/shard-00000.bin", "pending/push.json", "uniprot/x.jsonl"]


def test_the_longest_unused_go_until_the_rest_fits(cache) -> None:
    done = trim(cache, max_bytes=910, now=NOW)  # 1160 bytes are there
    assert names(done.removed, cache) == ["demo-1", "homology/search-1.parquet"]
    assert trim(cache, max_bytes=910, now=NOW).removed == ()


def test_reading_counts_as_use(cache) -> None:
    path = cache / "homology/search-1.parquet"
    os.utime(path, (NOW - DAY_S, NOW - 60 * DAY_S))
    assert "homology/search-1.parquet" in names(trim(cache, max_age_s=30 * DAY_S, now=NOW).kept, cache)


def test_inputs_of_a_run_stay(cache, monkeypatch) -> None:
    run = cache.parent / "demo-abc"
    run.mkdir()
    monkeypatch.chdir(cache.parents[1])
    config = {"data": {"name": "demo", "test_terms": "out/cache/demo-1/test_terms.tsv", "obo": None}}
    (run / "config_resolved.json").write_text(json.dumps(config))
    (cache.parent / "broken").mkdir()
    (cache.parent / "broken/config_resolved.json").write_text("{")
    done = trim(cache, max_age_s=0, max_bytes=0, now=NOW)
    assert names(done.kept, cache) == ["demo-1"]
    assert done.kept[0].needed_by == "demo-abc"
    shutil.rmtree(run)
    assert names(trim(cache, max_age_s=0, now=NOW).removed, cache) == ["demo-1"]


def test_a_dry_run_says_the_same_and_removes_nothing(cache) -> None:
    before = sorted(cache.rglob("*"))
    with in_use(cache):
        said = trim(cache, max_age_s=30 * DAY_S, now=NOW, dry_run=True)
    (cache / ".lock").unlink()
    assert sorted(cache.rglob("*")) == before
    assert names(trim(cache, max_age_s=30 * DAY_S, now=NOW).removed, cache) == names(said.removed, cache)


def test_nothing_goes_while_another_process_uses_the_cache(cache) -> None:
    code = (
        "import sys; from pathlib import Path; from services.train.cache import in_use\n"
        "with in_use(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(cache)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert user.stdout.readline() == "held\n"
        with in_use(cache), pytest.raises(TryAgain, match="uses the cache"):
            trim(cache, max_age_s=0, now=NOW)
        assert (cache / "homology/search-1.parquet").exists()
    finally:
        user.kill()
        user.wait()
        user.stdin.close()
        user.stdout.close()
    assert len(trim(cache, max_age_s=0, now=NOW).removed) == 5  # a death releases the lock


def test_a_run_holds_the_cache_before_it_looks_for_its_data(cache, monkeypatch) -> None:
    seen = []

    def looking(name, version, out):
        with pytest.raises(TryAgain):
            trim(out / "cache", max_age_s=0, now=NOW)
        seen.append(name)
        raise TryAgain("enough")

    monkeypatch.setattr("services.train.data.dataset_defaults", looking)
    assert main(build_parser(), ["run", "--set", f"paths.out={cache.parent}", "--set", "data.name=demo"]) == 75
    assert seen == ["demo"]
    assert trim(cache, max_age_s=0, now=NOW).removed


def test_leftovers_of_killed_processes_go(cache) -> None:
    for path in (".demo-1.abc/x", "homology/scratch-1-2/db", "homology/.abc.search.parquet", ".trash-1/y"):
        make(cache / path, 5, days=0)
    done = trim(cache, now=NOW)
    assert (done.leftovers, done.removed) == (4, ())
    assert not [p for p in cache.rglob("*") if "abc" in p.name or "scratch" in p.name or "trash" in p.name]


def test_a_kill_while_removing_leaves_no_half_entry(cache, monkeypatch) -> None:
    def dying(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt):
        trim(cache, max_age_s=30 * DAY_S, now=NOW)
    monkeypatch.undo()
    assert not (cache / "demo-1").exists()
    assert trim(cache, max_age_s=30 * DAY_S, now=NOW).leftovers == 1


def test_removed_vectors_are_simply_made_again(cache) -> None:
    folder = cache / "embeddings/cc"
    for _ in range(2):
        with VectorCache(folder, 2, {"arch": "tiny"}) as vectors:
            assert vectors.load([b"k" * 32]) == set()
            vectors.append([b"k" * 32], __import__("numpy").ones((1, 2), "float16"))
            assert vectors.load([b"k" * 32]) == {b"k" * 32}
        trim(cache, max_bytes=0)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=6),
    st.none() | st.integers(0, 3000),
    st.none() | st.integers(0, 50),
)
def test_what_stays_fits_and_is_younger_than_what_goes(tmp_path_factory, files, limit, days) -> None:
    cache = tmp_path_factory.mktemp("c") / "cache"
    for number, (size, age) in enumerate(files):
        make(cache / f"homology/{number}.parquet", size, age)
    done = trim(cache, max_age_s=None if days is None else days * DAY_S, max_bytes=limit, now=NOW)
    assert len(done.removed) + len(done.kept) == len(files)
    assert limit is None or sum(entry.size for entry in done.kept) <= limit
    assert days is None or all(NOW - entry.used <= days * DAY_S for entry in done.kept)
    if done.removed and done.kept:
        assert max(entry.used for entry in done.removed) <= min(entry.used for entry in done.kept)
    if limit is None and days is None:
        assert not done.removed


def test_ages_and_sizes() -> None:
    assert (parse_age("30d"), parse_age("1.5h")) == (30 * DAY_S, 5400)
    assert (parse_size("20GB"), parse_size("1.5 mb"), parse_size("7")) == (20 * 10**9, 1_500_000, 7)
    for wrong in ("", "d", "30", "-1d"):
        with pytest.raises(UsageError):
            parse_age(wrong)
    for wrong in ("", "GB", "-1", "1XB"):
        with pytest.raises(UsageError):
            parse_size(wrong)


def test_the_verb(cache, capsys) -> None:
    out = ["--out", str(cache.parent)]
    assert main(build_parser(), ["cache", "gc", *out, "--max-size", "0", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["dry_run"], said["removed_bytes"], said["kept_bytes"]) == (True, 1160, 0)
    os.utime(cache / "homology/search-1.parquet", (0, 0))  # the verb goes by the real clock
    assert main(build_parser(), ["cache", "gc", *out]) == 0
    assert "removed homology/search-1.parquet  200 bytes" in capsys.readouterr().out
    assert main(build_parser(), ["cache", "gc", *out, "--older-than", "soon"]) == 64
    assert main(build_parser(), ["cache", "gc", "--out", str(cache / "none")]) == 0
