from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from contracts.store_contract import STAGE, make_run, payload
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared.checkpoint import Checkpoint
from shared.config import StoreConfig
from shared.errors import CannotWrite, ConfigError, IntegrityError, MissingInput
from shared.stores import LocalStore, MemoryStore, Push, open_store
from shared.stores.base import object_key
from shared.stores.manifest import StoreManifest, parse_manifest
from shared.stores.upkeep import freeze, gc, repair, verify


def test_open_store_knows_its_schemes(tmp_path: Path) -> None:
    assert open_store("local://", tmp_path / "cache").root == tmp_path / "store"
    assert open_store("local:///x/y", tmp_path / "cache").root == Path("/x/y")
    assert open_store("file:///x/y", tmp_path / "cache").url == "local:///x/y"
    assert open_store("memory://", tmp_path / "cache").url == "memory://"
    assert open_store("kaggle://owner/slug", tmp_path).url == "kaggle://owner/slug"  # opened, not asked
    assert open_store("hf://owner/slug", tmp_path).url == "hf://owner/slug"
    with pytest.raises(ConfigError, match="local://, memory://"):
        open_store("gopher://x", tmp_path)


@pytest.mark.parametrize(
    "url", ["kaggle://owner", "kaggle://owner/Slug_X", f"kaggle://owner/{'x' * 40}", "hf://owner", "hf:///x"]
)
def test_a_name_that_the_remote_would_refuse_is_refused_here(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OWNER"):
        open_store(url, tmp_path)


def test_a_mount_without_a_snapshot_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="freeze"):
        open_store(f"mount://{tmp_path}", tmp_path)
    with pytest.raises(MissingInput, match="freeze"):
        open_store(f"kaggle://owner/slug?mount={tmp_path}", tmp_path)


def test_a_mount_takes_no_push_but_knows_what_it_has(tmp_path: Path) -> None:
    checkpoint = make_run(tmp_path / "run")
    store = LocalStore(tmp_path / "store")
    store.push(checkpoint, tmp_path / "run")
    freeze(store, tmp_path / "frozen")
    mounted = open_store(f"mount://{tmp_path / 'frozen'}", tmp_path / "cache")
    assert mounted.push(checkpoint, tmp_path / "run") == Push(0, 0, published=False)
    with pytest.raises(CannotWrite, match="read-only"):
        mounted.push(make_run(tmp_path / "run", "other"), tmp_path / "run")


def test_a_damaged_file_of_a_mount_is_not_taken(tmp_path: Path) -> None:
    checkpoint = make_run(tmp_path / "run")
    store = LocalStore(tmp_path / "store")
    store.push(checkpoint, tmp_path / "run")
    freeze(store, tmp_path / "frozen")
    damaged = tmp_path / "frozen/files" / checkpoint.outputs[0].path
    damaged.write_bytes(b"X" + damaged.read_bytes()[1:])
    mounted = open_store(f"mount://{tmp_path / 'frozen'}", tmp_path / "cache")
    with pytest.raises(IntegrityError, match="is missing"):
        mounted.pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
    assert not (tmp_path / "b" / checkpoint.outputs[0].path).exists()


@pytest.mark.parametrize(("over", "part"), [(0, "embeddings"), (1 << 20, "core")])
def test_split_auto_goes_by_the_size_of_the_embeddings(tmp_path: Path, over: int, part: str) -> None:
    store = MemoryStore(StoreConfig(split="auto", split_over_bytes=over))
    checkpoint = make_run(tmp_path, stage="stage_06_embeddings_esm2")
    store.push(checkpoint, tmp_path)
    assert {location.part for location in store.state().manifest.objects.values()} == {part}
    store.push(make_run(tmp_path, stage="stage_07_level1_preds"), tmp_path)
    assert store.part_for(make_run(tmp_path), store.state().manifest) == "core"


def test_a_checkpoint_that_leaves_the_run_folder_is_refused(tmp_path: Path) -> None:
    checkpoint = make_run(tmp_path / "a")
    store = LocalStore(tmp_path / "store")
    store.push(checkpoint, tmp_path / "a")
    path = tmp_path / "store/manifests/00000001.json"
    path.write_text(path.read_text().replace("external/entryid_text.tsv", "../outside.tsv"))
    with pytest.raises(IntegrityError, match="leaves the run folder"):
        LocalStore(tmp_path / "store").pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
    assert not (tmp_path / "outside.tsv").exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"store_manifest_version":"2.0"}', b'{"objects":{"x":{"size":1,"name":"../x"}}}'],
)
def test_a_manifest_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_manifest(data, version="1", part="core", where="test")


def test_unknown_fields_of_a_manifest_are_kept() -> None:
    data = StoreManifest().to_bytes().replace(b'"seq":0', b'"seq":0,"later":[1]')
    again = parse_manifest(data, version="1", part="core", where="test").successor("1", "push", "x")
    assert b'"later":[1]' in again.to_bytes()


def test_old_manifests_go_and_what_they_alone_named_stays_until_gc(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("shared.stores.keyvalue.KEEP_VERSIONS", 3)
    store = MemoryStore()
    for number in range(5):
        checkpoint = make_run(tmp_path, str(number))
        store.push(checkpoint, tmp_path)
    assert sum(key.startswith("manifests/") for key in store.data) == 3
    assert len(list(store.checkpoints())) == 1
    assert verify(store).problems == {}
    gc(store, versions=1, grace_s=0)
    assert sum(key.startswith("objects/") for key in store.data) == 2


def test_gc_leaves_young_objects_for_pushes_under_way(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.push(make_run(tmp_path / "a"), tmp_path / "a")
    orphan = tmp_path / "store" / object_key("0" * 64)
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.write_bytes(b"of a push under way")
    gc(store)
    assert orphan.exists()
    os.utime(orphan, (0, 0))
    assert gc(store).objects == 1
    assert not orphan.exists()


class StoreAgainstDict(RuleBasedStateMachine):
    """Two machines, a place and a dict see the same; whatever is pulled is what was last pushed."""

    FINGERPRINTS = ("0" * 64, "1" * 64)
    STAGES = (STAGE, "stage_05_embeddings_t5")

    @initialize(split=st.sampled_from(["never", "always"]))
    def start(self, split: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.stores = [
            LocalStore(self.root / "store", StoreConfig(split=split), self.root / f"cache{number}") for number in (0, 1)
        ]
        self.model: dict[tuple[str, str], Checkpoint] = {}
        self.runs: dict[tuple[str, str], Path] = {}
        self.count = 0

    @rule(
        machine=st.sampled_from([0, 1]),
        text=st.sampled_from(["a", "b", "c"]),
        fingerprint=st.sampled_from(FINGERPRINTS),
        stage=st.sampled_from(STAGES),
    )
    def push(self, machine: int, text: str, fingerprint: str, stage: str) -> None:
        run = self.root / f"run-{text}"
        checkpoint = make_run(run, text, fingerprint, stage)
        stored = {output.sha256 for known in self.model.values() for output in known.outputs}
        pushed = self.stores[machine].push(checkpoint, run)
        assert pushed.published is (self.model.get((stage, fingerprint)) != checkpoint)
        if not stored.intersection(output.sha256 for output in checkpoint.outputs):
            assert pushed.bytes in (0, payload(checkpoint))  # 0: an older version still has it
        self.model[stage, fingerprint] = checkpoint
        self.runs[stage, fingerprint] = run

    @rule(machine=st.sampled_from([0, 1]), fingerprint=st.sampled_from(FINGERPRINTS), stage=st.sampled_from(STAGES))
    def pull(self, machine: int, fingerprint: str, stage: str) -> None:
        self.count += 1
        target = self.root / f"pulled{self.count}"
        pulled = self.stores[machine].pull(stage, fingerprint, target)
        assert pulled == self.model.get((stage, fingerprint))
        if pulled is not None:
            assert all(output.matches(target) for output in pulled.outputs)

    @rule(machine=st.sampled_from([0, 1]), data=st.data())
    def damage_and_repair(self, machine: int, data: st.DataObject) -> None:
        if not self.model:
            return
        key = data.draw(st.sampled_from(sorted(self.model)))
        store, sha256 = self.stores[machine], self.model[key].outputs[0].sha256
        where = store.state().manifest.objects[sha256]
        path = self.root / "store" / ("" if where.part == "core" else where.part) / where.name
        path.write_bytes(b"damaged")
        assert set(verify(store).problems) == {sha256}
        assert repair(store, self.runs[key]).mended == [sha256]

    @rule(machine=st.sampled_from([0, 1]))
    def collect(self, machine: int) -> None:
        gc(self.stores[machine], versions=1, grace_s=0)

    @invariant()
    def lists_what_was_pushed_and_all_of_it_is_whole(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                assert {(c.stage, c.fingerprint): c for c in store.checkpoints()} == self.model
            assert verify(self.stores[0], depth="bytes").problems == {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = settings(max_examples=10, stateful_step_count=10, deadline=None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(CannotWrite):
        LocalStore(tmp_path / "store").push(make_run(tmp_path / "a"), tmp_path / "a")
