"""What every store must do; a store's own test file is a subclass with a `store` fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.artefacts import artefact
from shared.checkpoint import Checkpoint, Output
from shared.errors import IntegrityError
from shared.stores import Push, Store

STAGE = "stage_02_external_text"
PATHS = ("external/text_manifest.json", "external/entryid_text.tsv")


def make_run(root: Path, text: str = "hello", fingerprint: str = "f" * 64) -> Checkpoint:
    """A run folder with two artefacts and the checkpoint that names them."""
    import pandas as pd

    root.mkdir(parents=True, exist_ok=True)
    (root / "external").mkdir(exist_ok=True)
    artefact(PATHS[0]).codec.write(root / PATHS[0], {"text": text})
    artefact(PATHS[1]).codec.write(root / PATHS[1], pd.DataFrame({"EntryID": ["P1"], "text": [text]}))
    outputs = tuple(Output.of(root, path) for path in PATHS)
    return Checkpoint(
        STAGE, 1, fingerprint, {"config:text": "x"}, outputs, "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00"
    )


class StoreContract:
    """Subclass, and give a `store` fixture that is empty."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def damage(self, store: Store, sha256: str) -> None:
        """Flip one byte of a stored object, keeping its size."""
        raise NotImplementedError

    def test_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert list(store.checkpoints()) == []

    def test_what_was_pushed_is_pulled(self, store: Store, tmp_path: Path) -> None:
        checkpoint = make_run(tmp_path / "a")
        pushed = store.push(checkpoint, tmp_path / "a")
        assert pushed == Push(2, sum(o.size for o in checkpoint.outputs), published=True)
        pulled = store.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        assert pulled == checkpoint
        assert all(output.matches(tmp_path / "b") for output in checkpoint.outputs)
        assert list(store.checkpoints()) == [checkpoint]

    def test_an_unknown_fingerprint_is_none(self, store: Store, tmp_path: Path) -> None:
        store.push(make_run(tmp_path), tmp_path)
        assert store.pull(STAGE, "0" * 64, tmp_path / "b") is None
        assert not (tmp_path / "b").exists()

    def test_an_unchanged_push_moves_nothing(self, store: Store, tmp_path: Path) -> None:
        checkpoint = make_run(tmp_path)
        store.push(checkpoint, tmp_path)
        assert store.push(checkpoint, tmp_path) == Push(0, 0, published=False)

    def test_unchanged_is_judged_by_content_not_by_size(self, store: Store, tmp_path: Path) -> None:
        store.push(make_run(tmp_path, "hello"), tmp_path)
        changed = make_run(tmp_path, "hullo")
        assert store.push(changed, tmp_path).objects == 2
        store.pull(STAGE, changed.fingerprint, tmp_path / "b")
        assert b"hullo" in (tmp_path / "b" / PATHS[0]).read_bytes()

    def test_content_known_under_another_fingerprint_is_not_sent_again(self, store: Store, tmp_path: Path) -> None:
        store.push(make_run(tmp_path), tmp_path)
        other = make_run(tmp_path, fingerprint="e" * 64)
        assert store.push(other, tmp_path) == Push(0, 0, published=True)

    def test_a_file_changed_since_its_checkpoint_is_refused(self, store: Store, tmp_path: Path) -> None:
        checkpoint = make_run(tmp_path)
        (tmp_path / PATHS[1]).write_text("EntryID\ttext\nP1\thullo\n")
        with pytest.raises(IntegrityError, match=r"entryid_text\.tsv"):
            store.push(checkpoint, tmp_path)
        assert list(store.checkpoints()) == []

    def test_a_damaged_object_is_found_and_nothing_half_is_left(self, store: Store, tmp_path: Path) -> None:
        checkpoint = make_run(tmp_path / "a")
        store.push(checkpoint, tmp_path / "a")
        self.damage(store, checkpoint.outputs[1].sha256)
        with pytest.raises(IntegrityError, match="expected sha256"):
            store.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        assert not (tmp_path / "b" / checkpoint.outputs[1].path).exists()
        assert not [path for path in (tmp_path / "b").rglob(".*") if path.is_file()]

    def test_right_files_are_not_transferred_and_wrong_ones_are_replaced(self, store: Store, tmp_path: Path) -> None:
        checkpoint = make_run(tmp_path / "a")
        store.push(checkpoint, tmp_path / "a")
        store.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        kept = (tmp_path / "b" / PATHS[0]).stat().st_ino
        (tmp_path / "b" / PATHS[1]).write_text("damaged")
        store.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        assert (tmp_path / "b" / PATHS[0]).stat().st_ino == kept
        assert checkpoint.outputs[1].matches(tmp_path / "b")

    def test_the_store_shares_no_bytes_with_the_run(self, store: Store, tmp_path: Path) -> None:
        checkpoint = make_run(tmp_path / "a")
        store.push(checkpoint, tmp_path / "a")
        with (tmp_path / "a" / PATHS[0]).open("r+b") as file:
            file.write(b"XX")
        store.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        assert checkpoint.outputs[0].matches(tmp_path / "b")
