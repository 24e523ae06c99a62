"""Where compiled libraries are kept."""

from __future__ import annotations

from shared.native import cache_folder


def test_a_cache_that_others_can_write_is_not_used(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "gowhy" / "kernels"
    cache_folder().chmod(0o777)
    assert cache_folder().parent != tmp_path / "gowhy"
