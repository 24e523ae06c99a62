from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.xai_worker.worker.volume import check_volume
from shared.errors import CannotWrite, MissingInput


def test_a_volume_that_publishes_atomically_is_taken_and_left_clean(tmp_path: Path) -> None:
    check_volume(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="GOWHY_XAI_OUT"):
        check_volume(tmp_path / "nothing")


def test_one_that_replaces_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def careless(self: Path, target: Path) -> Path:
        if target.exists():
            for file in target.iterdir():
                file.unlink()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", careless)
    with pytest.raises(CannotWrite, match="no atomic publish"):
        check_volume(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(CannotWrite, match="not writable"):
        check_volume(tmp_path)
