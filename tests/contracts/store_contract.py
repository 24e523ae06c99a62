"""What every store must do, in both layouts; a backend's own test is a subclass with a `backend` fixture."""

from __future__ import annotations

import gc as gc_collector
import threading
from pathlib import Path
from typing import Any

import pytest
from fakes.backends import FAULTS, QUICK, Backend
from fakes.faulty import Clock, Death, Mortal

from shared.artefacts import artefact
from shared.checkpoint import Checkpoint, Output
from shared.errors import IntegrityError
from shared.stores import Push, Store, StoreConflict
from shared.stores.engine import EMBEDDING_STAGES, ContentStore
from shared.stores.mount import open_mount
from shared.stores.upkeep import diff, freeze, gc, log, repair, verify

# A process that dies closes its sockets; here they are collected with its frames.
DEATH_LEAVES_SOCKETS = pytest.mark.filterwarnings("ignore::ResourceWarning")
STAGE = "stage_02_external_text"
EMBEDDINGS = EMBEDDING_STAGES[0]
PATHS = ("external/text_manifest.json", "external/entryid_text.tsv")


def make_run(root: Path, text: str = "hello", fingerprint: str = "f" * 64, stage: str = STAGE) -> Checkpoint:
    """A run folder with two artefacts and the checkpoint that names them."""
    import pandas as pd

    root.mkdir(parents=True, exist_ok=True)
    (root / "external").mkdir(exist_ok=True)
    artefact(PATHS[0]).codec.write(root / PATHS[0], {"text": text})
    artefact(PATHS[1]).codec.write(root / PATHS[1], pd.DataFrame({"EntryID": ["P1"], "text": [text]}))
    return checkpoint_of(root, fingerprint, stage, *PATHS)


def checkpoint_of(root: Path, fingerprint: str, stage: str, *paths: str) -> Checkpoint:
    outputs = tuple(Output.of(root, path) for path in paths)
    times = "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00"
    return Checkpoint(stage, 1, fingerprint, {"config:text": "x"}, outputs, *times)


def payload(checkpoint: Checkpoint) -> int:
    return sum({output.sha256: output.size for output in checkpoint.outputs}.values())


def assert_holds(checkpoint: Checkpoint, root: Path) -> None:
    assert all(output.matches(root) for output in checkpoint.outputs)


class StoreContract:
    """Subclass, and give a `backend` fixture that is empty."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        raise NotImplementedError

    @pytest.fixture(params=["never", "always"])
    def split(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def stage(self, split: str) -> str:
        """In the split layout, a stage that goes to the second dataset."""
        return EMBEDDINGS if split == "always" else STAGE

    @pytest.fixture
    def store(self, backend: Backend, tmp_path: Path, split: str) -> ContentStore:
        return backend.open(tmp_path / "cache", split=split)

    @pytest.fixture
    def other(self, backend: Backend, tmp_path: Path, split: str) -> ContentStore:
        """The same place, seen by another machine."""
        return backend.open(tmp_path / "other-cache", split=split)

    # -- push and pull -------------------------------------------------------------------------------------------

    def test_is_a_store(self, store: ContentStore) -> None:
        assert isinstance(store, Store)
        assert list(store.checkpoints()) == []
        assert store.pull(STAGE, "0" * 64, Path("nowhere")) is None

    def test_what_was_pushed_is_pulled(self, store, other, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        assert store.push(checkpoint, tmp_path / "a") == Push(2, payload(checkpoint), published=True)
        assert other.pull(stage, checkpoint.fingerprint, tmp_path / "b") == checkpoint
        assert_holds(checkpoint, tmp_path / "b")
        assert list(other.checkpoints()) == [checkpoint]
        part = store.state().manifest.objects[checkpoint.outputs[0].sha256].part
        assert part == ("embeddings" if stage == EMBEDDINGS else "core")

    def test_an_unknown_fingerprint_is_none(self, store, tmp_path) -> None:
        store.push(make_run(tmp_path), tmp_path)
        assert store.pull(STAGE, "0" * 64, tmp_path / "b") is None
        assert not (tmp_path / "b").exists()

    def test_an_unchanged_push_moves_nothing_and_publishes_no_version(
        self, backend, store, other, stage, tmp_path
    ) -> None:
        checkpoint = make_run(tmp_path, stage=stage)
        store.push(checkpoint, tmp_path)
        sent = backend.sent()
        for again in (store, other):
            assert again.push(checkpoint, tmp_path) == Push(0, 0, published=False)
        assert backend.sent() == sent
        assert len(log(other)) == 1

    def test_unchanged_is_judged_by_content_not_by_size(self, store, stage, tmp_path) -> None:
        store.push(make_run(tmp_path, "hello", stage=stage), tmp_path)
        changed = make_run(tmp_path, "hullo", stage=stage)
        assert store.push(changed, tmp_path).objects == 2
        store.pull(stage, changed.fingerprint, tmp_path / "b")
        assert b"hullo" in (tmp_path / "b" / PATHS[0]).read_bytes()

    def test_known_content_is_not_sent_again(self, backend, store, stage, tmp_path) -> None:
        store.push(make_run(tmp_path, stage=stage), tmp_path)
        sent = backend.sent()
        other = make_run(tmp_path, fingerprint="e" * 64, stage=stage)
        assert store.push(other, tmp_path) == Push(0, 0, published=True)
        (tmp_path / "models").mkdir()
        (tmp_path / "model_manifest.json").write_bytes((tmp_path / PATHS[0]).read_bytes())
        renamed = checkpoint_of(tmp_path, "d" * 64, "stage_08_stacker", "model_manifest.json")
        assert store.push(renamed, tmp_path) == Push(0, 0, published=True)
        assert backend.sent() == sent

    def test_duplicate_content_moves_once(self, backend, store, other, stage, tmp_path) -> None:
        make_run(tmp_path / "a", "x" * 1000)
        for path in ("metrics.json", "model_manifest.json"):
            (tmp_path / "a" / path).write_bytes((tmp_path / "a" / PATHS[0]).read_bytes())
        checkpoint = checkpoint_of(tmp_path / "a", "c" * 64, stage, PATHS[0], "metrics.json", "model_manifest.json")
        size, before = checkpoint.outputs[0].size, backend.sent()
        assert store.push(checkpoint, tmp_path / "a") == Push(1, size, published=True)
        assert size <= backend.sent() - before < 2 * size
        other.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        assert_holds(checkpoint, tmp_path / "b")

    def test_empty_files_are_stored_like_others(self, store, other, stage, tmp_path) -> None:
        make_run(tmp_path / "a")
        (tmp_path / "a" / PATHS[0]).write_bytes(b"")
        outputs = [Output(PATHS[0], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0, None)]
        checkpoint = Checkpoint(stage, 1, "f" * 64, {}, tuple(outputs), "", "")
        store.push(checkpoint, tmp_path / "a")
        other.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        assert (tmp_path / "b" / PATHS[0]).read_bytes() == b""
        assert not verify(other).problems

    def test_a_push_is_one_version_of_each_dataset_it_needs(self, store, stage, tmp_path) -> None:
        for text in ("a", "b", "c"):
            store.push(make_run(tmp_path, text, stage=stage), tmp_path)
        assert [state["kind"] for state in log(store)] == ["push"] * 3
        embeddings = store.state("embeddings").manifest
        assert embeddings.seq == (3 if stage == EMBEDDINGS else 0)
        assert not embeddings.entries

    def test_a_file_changed_since_its_checkpoint_is_refused(self, store, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path, stage=stage)
        (tmp_path / PATHS[1]).write_text("EntryID\ttext\nP1\thullo\n")
        with pytest.raises(IntegrityError, match=r"entryid_text\.tsv"):
            store.push(checkpoint, tmp_path)
        assert list(store.checkpoints()) == []

    def test_right_files_are_not_transferred_and_wrong_ones_are_replaced(self, store, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        store.push(checkpoint, tmp_path / "a")
        store.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        kept = (tmp_path / "b" / PATHS[0]).stat().st_ino
        (tmp_path / "b" / PATHS[1]).write_text("damaged")
        store.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        assert (tmp_path / "b" / PATHS[0]).stat().st_ino == kept
        assert_holds(checkpoint, tmp_path / "b")

    def test_the_store_shares_no_bytes_with_the_run(self, store, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        store.push(checkpoint, tmp_path / "a")
        with (tmp_path / "a" / PATHS[0]).open("r+b") as file:
            file.write(b"XX")
        store.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        assert_holds(checkpoint, tmp_path / "b")

    def test_an_older_version_stays_readable(self, store, other, stage, tmp_path) -> None:
        first = make_run(tmp_path / "a", "one", stage=stage)
        version = store.push(first, tmp_path / "a").version
        store.push(make_run(tmp_path / "a", "two", stage=stage), tmp_path / "a")
        old = other.state(version=version).manifest
        assert old.current("test") == {stage: first}
        other.fetch(old, first.outputs, tmp_path / "b")
        assert_holds(first, tmp_path / "b")
        new = other.state().manifest.current("test")
        assert diff(old.current("test"), new) == {
            stage: {"added": [], "removed": [], "changed": sorted(PATHS)},
        }

    def test_it_says_where_it_is_and_that_it_is_private(self, store, stage, tmp_path) -> None:
        store.push(make_run(tmp_path, stage=stage), tmp_path)
        found = store.describe()
        assert set(found["datasets"]) == ({"core", "embeddings"} if stage == EMBEDDINGS else {"core"})
        assert all(item["id"] and item["version"] for item in found["datasets"].values())
        assert found["private"] in (True, None)

    # -- damage --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["damaged", "missing"])
    def test_a_bad_object_is_found_and_mended(self, backend, store, other, stage, tmp_path, kind) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        store.push(checkpoint, tmp_path / "a")
        bad = checkpoint.outputs[1].sha256
        (backend.flip if kind == "damaged" else backend.lose)(store, bad)
        found = verify(other)
        assert found.problems[bad] == kind
        assert f"{stage}:{PATHS[1]}" in found.paths[bad]
        with pytest.raises(IntegrityError, match="expected sha256" if kind == "damaged" else "is missing"):
            other.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        assert not (tmp_path / "b" / checkpoint.outputs[1].path).exists()
        assert not [path for path in (tmp_path / "b").rglob("*") if path.is_file() and path.name not in str(PATHS)]
        mended = repair(other, tmp_path / "a")
        assert bad in mended.mended
        assert mended.unmended == {}
        fresh = backend.open(tmp_path / "cache3")
        assert verify(fresh).problems == {}
        fresh.pull(stage, checkpoint.fingerprint, tmp_path / "c")
        assert_holds(checkpoint, tmp_path / "c")

    def test_a_push_after_a_failed_pull_mends(self, backend, store, other, stage, tmp_path) -> None:
        """The stage runs again, makes the same bytes, and the store takes them in spite of knowing their hash."""
        checkpoint = make_run(tmp_path / "a", stage=stage)
        store.push(checkpoint, tmp_path / "a")
        backend.flip(store, checkpoint.outputs[0].sha256)
        with pytest.raises(IntegrityError):
            other.pull(stage, checkpoint.fingerprint, tmp_path / "b")
        assert other.push(checkpoint, tmp_path / "a").published
        backend.open(tmp_path / "cache3").pull(stage, checkpoint.fingerprint, tmp_path / "c")
        assert_holds(checkpoint, tmp_path / "c")

    def test_repair_without_the_bytes_says_which_are_missing(self, backend, store, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        store.push(checkpoint, tmp_path / "a")
        backend.lose(store, checkpoint.outputs[0].sha256)
        (tmp_path / "empty").mkdir()
        assert PATHS[0] in {path for paths in repair(store, tmp_path / "empty").unmended.values() for path in paths}

    # -- two writers ---------------------------------------------------------------------------------------------

    def test_disjoint_stages_of_two_writers_merge(self, backend, store, other, stage, tmp_path) -> None:
        mine, theirs = (
            make_run(tmp_path / "a", "a", stage=stage),
            make_run(tmp_path / "b", "b", stage="stage_08_stacker"),
        )
        barrier = threading.Barrier(2)
        errors: list[BaseException] = []

        def push(writer: ContentStore, checkpoint: Checkpoint, root: Path) -> None:
            self.intrude(writer, lambda: barrier.wait(timeout=10))
            try:
                writer.push(checkpoint, root)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        threads = [
            threading.Thread(target=push, args=(store, mine, tmp_path / "a")),
            threading.Thread(target=push, args=(other, theirs, tmp_path / "b")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        fresh = backend.open(tmp_path / "cache3")
        assert {c.stage for c in fresh.checkpoints()} == {stage, "stage_08_stacker"}
        for number, checkpoint in enumerate((mine, theirs)):
            fresh.pull(checkpoint.stage, checkpoint.fingerprint, tmp_path / f"pulled{number}")
            assert_holds(checkpoint, tmp_path / f"pulled{number}")

    def test_the_same_stage_of_two_writers_conflicts(self, backend, store, other, stage, tmp_path) -> None:
        first, second = make_run(tmp_path / "a", "a", stage=stage), make_run(tmp_path / "b", "b", stage=stage)
        self.intrude(store, lambda: other.push(first, tmp_path / "a"))
        with pytest.raises(StoreConflict, match=stage):
            store.push(second, tmp_path / "b")
        fresh = backend.open(tmp_path / "cache3")
        assert [c.outputs for c in fresh.checkpoints()] == [first.outputs]
        assert store.push(second, tmp_path / "b").published
        assert [c.outputs for c in backend.open(tmp_path / "cache4").checkpoints()] == [second.outputs]

    def test_the_same_content_from_two_writers_is_no_conflict(self, backend, store, other, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        self.intrude(store, lambda: other.push(checkpoint, tmp_path / "a"))
        store.push(checkpoint, tmp_path / "a")
        assert list(backend.open(tmp_path / "cache3").checkpoints()) == [checkpoint]

    @staticmethod
    def intrude(store: ContentStore, action: Any) -> None:
        """Let another writer be faster, at the moment when this one is about to commit."""
        original = store.transport().commit
        todo = [action]

        def commit(*arguments: Any) -> Any:
            if todo:
                todo.pop()()
            return original(*arguments)

        store.transport().commit = commit  # type: ignore[method-assign]

    # -- faults --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_loses_nothing_and_lets_nothing_wrong_in(
        self, backend, store, other, stage, tmp_path, fault
    ) -> None:
        if fault in ("truncated", "damaged download"):
            checkpoint = make_run(tmp_path / "a", stage=stage)
            store.push(checkpoint, tmp_path / "a")
            backend.inject(fault)
        else:
            backend.inject(fault)
            checkpoint = make_run(tmp_path / "a", stage=stage)
            store.push(checkpoint, tmp_path / "a")
            assert backend.met()
        assert other.pull(stage, checkpoint.fingerprint, tmp_path / "b") == checkpoint
        assert backend.met() == 1
        assert_holds(checkpoint, tmp_path / "b")
        assert verify(backend.open(tmp_path / "cache3"), depth="bytes").problems == {}
        if fault != "damaged upload":
            assert len(log(other)) == 1

    def test_one_failed_file_aborts_the_whole_push(self, backend, store, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        transport = store.transport("embeddings" if stage == EMBEDDINGS else "core")
        original, calls = transport.upload, []

        def upload(blob: Any, meter: Any, *, replace: bool) -> str:
            calls.append(blob.name)
            raise IntegrityError("refused", where="test")

        transport.upload = upload  # type: ignore[method-assign]
        with pytest.raises(IntegrityError, match="refused"):
            store.push(checkpoint, tmp_path / "a")
        assert list(backend.open(tmp_path / "cache3").checkpoints()) == []
        transport.upload = original  # type: ignore[method-assign]
        assert store.push(checkpoint, tmp_path / "a").published

    # -- death ---------------------------------------------------------------------------------------------------

    def steps(self, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        """Steps that are not calls of the transport; a backend adds its own."""
        from shared.stores import transfer

        original = transfer.place

        def place(part: Path, target: Path) -> None:
            clock.tick()
            original(part, target)
            clock.tick()

        monkeypatch.setattr(transfer, "place", place)

    @DEATH_LEAVES_SOCKETS
    def test_death_at_every_step_of_a_push(self, make_backend, tmp_path, split, stage, monkeypatch) -> None:
        checkpoint = make_run(tmp_path / "run", stage=stage)

        def push(backend: Backend, folder: Path, clock: Clock) -> None:
            with monkeypatch.context() as patch:
                self.steps(patch, clock)
                backend.open(folder, lambda t: Mortal(t, clock), split=split).push(checkpoint, tmp_path / "run")

        whole, clock = make_backend(), Clock()
        push(whole, tmp_path / "whole", clock)
        expected = len(log(whole.open(tmp_path / "whole")))
        for step in range(1, clock.steps + 1):
            backend, folder = make_backend(), tmp_path / f"{step}"
            with pytest.raises(Death):
                push(backend, folder, Clock(step))
            retried = backend.open(folder, split=split)
            retried.push(checkpoint, tmp_path / "run")
            fresh = backend.open(tmp_path / "fresh", split=split)
            assert list(fresh.checkpoints()) == [checkpoint], f"step {step}"
            assert len(log(fresh)) == expected, f"step {step}"
            assert verify(fresh, depth="bytes").problems == {}, f"step {step}"
            assert set(fresh.state().manifest.objects) == {output.sha256 for output in checkpoint.outputs}
        gc_collector.collect()

    @DEATH_LEAVES_SOCKETS
    def test_death_at_every_step_of_a_pull(self, backend, store, tmp_path, split, stage, monkeypatch) -> None:
        checkpoint = make_run(tmp_path / "run", stage=stage)
        store.push(checkpoint, tmp_path / "run")

        def pull(folder: Path, clock: Clock) -> None:
            with monkeypatch.context() as patch:
                self.steps(patch, clock)
                dying = backend.open(folder / "cache", lambda t: Mortal(t, clock), split=split)
                dying.pull(stage, checkpoint.fingerprint, folder / "run")

        clock = Clock()
        pull(tmp_path / "whole", clock)
        for step in range(1, clock.steps + 1):
            folder = tmp_path / f"{step}"
            with pytest.raises(Death):
                pull(folder, Clock(step))
            for output in checkpoint.outputs:  # what is there is right
                assert output.matches(folder / "run") or not (folder / "run" / output.path).exists()
            assert backend.open(folder / "cache", split=split).pull(stage, checkpoint.fingerprint, folder / "run")
            assert_holds(checkpoint, folder / "run")
            assert not [path for path in folder.rglob("*.part") if path.is_file()]
        gc_collector.collect()

    # -- upkeep --------------------------------------------------------------------------------------------------

    def test_gc_removes_what_nothing_names_and_nothing_else(self, backend, store, stage, tmp_path) -> None:
        old = make_run(tmp_path / "a", "old", "a" * 64, stage)
        store.push(old, tmp_path / "a")
        new = make_run(tmp_path / "a", "new", "b" * 64, stage)
        store.push(new, tmp_path / "a")
        assert gc(store, grace_s=0).objects == 0
        planned = gc(store, keep=1, versions=1, grace_s=0, dry_run=True)
        assert planned.checkpoints == [f"{stage}/{old.fingerprint}"]
        assert len(list(store.checkpoints())) == 2
        done = gc(store, keep=1, versions=1, grace_s=0)
        fresh = backend.open(tmp_path / "cache3")
        assert list(fresh.checkpoints()) == [new]
        assert verify(fresh, depth="bytes").problems == {}
        if done.removable:
            assert done.objects == 2
            assert done.bytes == payload(old)

    def test_a_frozen_snapshot_is_read_without_the_store(self, store, stage, tmp_path) -> None:
        checkpoint = make_run(tmp_path / "a", stage=stage)
        store.push(checkpoint, tmp_path / "a")
        assert freeze(store, tmp_path / "frozen")["files"] == 2
        assert (tmp_path / "frozen/files" / PATHS[1]).read_bytes() == (tmp_path / "a" / PATHS[1]).read_bytes()
        mounted = open_mount(f"mount://{tmp_path / 'frozen'}", tmp_path / "cache2", store.config)
        assert mounted.pull(stage, checkpoint.fingerprint, tmp_path / "b") == checkpoint
        assert_holds(checkpoint, tmp_path / "b")
        before = sorted(tmp_path.joinpath("frozen").rglob("*"))
        freeze(store, tmp_path / "frozen")
        assert sorted(tmp_path.joinpath("frozen").rglob("*")) == before


assert QUICK.deadline_s < 60  # a hanging test is a failing test
