from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from services.xai_worker.folder import PARTS, PARTS_KEPT_S, published, read_complete, sweep_staging, write_result
from shared.errors import NotPermitted, TryAgain


def fill(folder: Path, text: str = "hello") -> None:
    (folder / "reports").mkdir()
    (folder / "reports/P1.html").write_text(text)
    write_result(folder, {"status": "complete"})


def fill_and_fail(folder: Path) -> None:
    fill(folder)
    raise RuntimeError("half way")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "xai/local-1"
    with published(final) as staging:
        fill(staging)
        assert not final.exists()
    result = read_complete(final)
    assert result is not None
    assert list(result["files"]) == ["reports/P1.html"]
    assert [path.name for path in final.parent.iterdir()] == ["local-1"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), published(tmp_path / "local-1") as staging:
        fill_and_fail(staging)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_processs_leftovers_are_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / ".local-1.partial"
    (leftover / "reports").mkdir(parents=True)
    (leftover / "explanations.jsonl").write_text("half")
    with published(tmp_path / "local-1") as staging:
        assert list(staging.iterdir()) == []
        fill(staging)
    assert not (tmp_path / "local-1/explanations.jsonl").exists()


def test_two_processes_do_not_make_the_same_result(tmp_path: Path) -> None:
    with published(tmp_path / "local-1") as staging:
        with pytest.raises(TryAgain), published(tmp_path / "local-1"):
            pass
        fill(staging)
    assert read_complete(tmp_path / "local-1") is not None


def test_a_folder_that_was_published_while_we_waited_for_its_lock_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, lock = tmp_path / "local-1", fcntl.flock

    def publish_first(descriptor: int, how: int) -> None:
        if not final.exists():
            (tmp_path / ".local-1.partial").rename(final)
        lock(descriptor, how)

    monkeypatch.setattr("services.xai_worker.folder.fcntl.flock", publish_first)
    with published(final) as staging:
        fill(staging)
    assert read_complete(final) is not None


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "local-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPermitted), published(tmp_path / "local-1"):
        pass
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("damage", ["change", "remove", "cut", "nonsense"])
def test_a_damaged_folder_is_not_complete(tmp_path: Path, damage: str) -> None:
    with published(tmp_path / "local-1") as staging:
        fill(staging)
    page, result = tmp_path / "local-1/reports/P1.html", tmp_path / "local-1/result.json"
    {
        "change": lambda: page.write_text("hullo"),
        "remove": page.unlink,
        "cut": lambda: result.write_bytes(result.read_bytes()[:-9]),
        "nonsense": lambda: result.write_text("[]"),
    }[damage]()
    assert read_complete(tmp_path / "local-1") is None


def test_unfinished_work_is_kept_for_a_week(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".{name}{PARTS}" for name in ("old", "young", "other"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "P1.json").write_text("{}")
    other.symlink_to(young)
    past = time.time() - PARTS_KEPT_S - 60
    os.utime(old, (past, past))
    os.utime(other, (past, past), follow_symlinks=False)
    sweep_staging(tmp_path)
    assert not old.exists()
    assert (young / "P1.json").exists()
