from __future__ import annotations

import os
from pathlib import Path

import pytest
from contracts.store_contract import STAGE, StoreContract, make_run
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared.errors import ConfigError, IntegrityError
from shared.stores import LocalStore, MemoryStore, Store, open_store
from shared.stores.base import checkpoint_key, object_key


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "store")

    def damage(self, store: Store, sha256: str) -> None:
        path = store.root / object_key(sha256)
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)

    def test_a_push_that_dies_before_its_checkpoint_publishes_nothing(self, store, tmp_path, monkeypatch) -> None:
        checkpoint = make_run(tmp_path / "a")
        monkeypatch.setattr(store, "write", lambda key, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.push(checkpoint, tmp_path / "a")
        assert LocalStore(store.root).pull(STAGE, checkpoint.fingerprint, tmp_path / "b") is None
        monkeypatch.undo()
        again = store.push(checkpoint, tmp_path / "a")
        assert again.bytes == 0
        assert again.published

    def test_a_checkpoint_that_leaves_the_run_folder_is_refused(self, store, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a")
        store.push(checkpoint, tmp_path / "a")
        path = store.root / checkpoint_key(STAGE, checkpoint.fingerprint)
        path.write_text(path.read_text().replace("external/entryid_text.tsv", "../outside.tsv"))
        with pytest.raises(IntegrityError, match="leaves the run folder"):
            store.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        assert not (tmp_path / "outside.tsv").exists()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    def damage(self, store: Store, sha256: str) -> None:
        data = bytearray(store.data[object_key(sha256)])
        data[0] ^= 1
        store.data[object_key(sha256)] = bytes(data)


def test_open_store_knows_its_schemes(tmp_path: Path) -> None:
    assert open_store("local://", tmp_path / "cache").root == tmp_path / "store"
    assert open_store("local:///x/y", tmp_path / "cache").root == Path("/x/y")
    assert open_store("memory://", tmp_path / "cache").url == "memory://"
    with pytest.raises(ConfigError, match="local://, memory://"):
        open_store("gopher://x", tmp_path)


class StoreAgainstDict(RuleBasedStateMachine):
    """A store and a dict see the same pushes; whatever is pulled is what was last pushed."""

    @initialize(kind=st.sampled_from(["local", "memory"]))
    def start(self, kind: str) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.store = LocalStore(self.root / "store") if kind == "local" else MemoryStore()
        self.model: dict[str, object] = {}
        self.count = 0

    @rule(text=st.sampled_from(["a", "b", "c"]), fingerprint=st.sampled_from(["0" * 64, "1" * 64, "2" * 64]))
    def push(self, text: str, fingerprint: str) -> None:
        checkpoint = make_run(self.root / "run", text, fingerprint)
        known = self.model.get(fingerprint) == checkpoint
        pushed = self.store.push(checkpoint, self.root / "run")
        assert pushed.published is not known
        self.model[fingerprint] = checkpoint

    @rule(fingerprint=st.sampled_from(["0" * 64, "1" * 64, "2" * 64]))
    def pull(self, fingerprint: str) -> None:
        self.count += 1
        target = self.root / f"pulled{self.count}"
        pulled = self.store.pull(STAGE, fingerprint, target)
        assert pulled == self.model.get(fingerprint)
        if pulled is not None:
            assert all(output.matches(target) for output in pulled.outputs)

    @invariant()
    def lists_what_was_pushed(self) -> None:
        if hasattr(self, "store"):
            assert {c.fingerprint: c for c in self.store.checkpoints()} == self.model

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_says_so(tmp_path: Path) -> None:
    from shared.errors import CannotWrite

    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(CannotWrite):
        LocalStore(tmp_path / "store").push(make_run(tmp_path / "a"), tmp_path / "a")
