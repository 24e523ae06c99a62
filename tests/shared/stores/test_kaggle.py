"""What only the Kaggle store has to get right, with the real client."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.store_contract import STAGE, assert_holds, checkpoint_of, make_run
from fakes.backends import QUICK, KaggleBackend

from shared.errors import CannotWrite, NotPermitted, ServiceUnavailable
from shared.stores import open_store
from shared.stores.base import Transient
from shared.stores.snapshot import Snapshot
from shared.stores.upkeep import attach, freeze, log, verify

pytestmark = pytest.mark.stores
BIG = "features/train_embeds_text.npy"


@pytest.fixture
def backend(kaggle_stub) -> KaggleBackend:
    return KaggleBackend(kaggle_stub)


def big_run(root: Path, megabytes: float = 3.0):
    make_run(root)
    import numpy as np

    (root / "features").mkdir()
    data = np.random.default_rng(0).random((int(megabytes * 1e6 / 8), 1))
    np.save(root / BIG, data)
    return checkpoint_of(root, "f" * 64, STAGE, BIG)


def test_a_cut_upload_goes_on_where_it_stopped_in_another_process(backend, tmp_path, monkeypatch) -> None:
    checkpoint = big_run(tmp_path / "run")
    size = checkpoint.outputs[0].size
    before = backend.sent()
    backend.stub.fault("PUT", name=r"\.bin", drop_after=2_000_000, times=1)
    backend.stub.fault("PUT", name=r"\.bin", status=503, times=10)
    with pytest.raises(Transient):
        backend.open(tmp_path / "cache").push(checkpoint, tmp_path / "run")
    assert backend.sent() - before == 2_000_000
    backend.stub.state.faults.waiting.clear()
    backend.open(tmp_path / "cache").push(checkpoint, tmp_path / "run")
    granule = 2_000_000 // (256 * 1024) * (256 * 1024)  # what the storage keeps of a cut upload
    assert backend.sent() - before == 2_000_000 + size - granule


def test_a_killed_push_does_not_send_a_finished_file_again(backend, tmp_path) -> None:
    checkpoint = big_run(tmp_path / "run")
    before = backend.sent()
    backend.stub.fault("CreateDataset", status=400)
    with pytest.raises(ServiceUnavailable):
        backend.open(tmp_path / "cache").push(checkpoint, tmp_path / "run")
    assert backend.sent() - before == checkpoint.outputs[0].size


def test_an_expired_upload_begins_anew(backend, tmp_path) -> None:
    checkpoint = big_run(tmp_path / "run")
    backend.stub.fault("PUT", name=r"\.bin", drop_after=1_000_000)
    backend.stub.fault("PUT", name=r"\.bin", status=404, expire=True)
    backend.open(tmp_path / "cache").push(checkpoint, tmp_path / "run")
    assert verify(backend.open(tmp_path / "cache2"), depth="bytes").problems == {}


def test_a_refused_file_publishes_nothing(backend, tmp_path) -> None:
    checkpoint = make_run(tmp_path / "run")
    backend.stub.fault("PUT", name=r"\.bin", status=400)
    with pytest.raises(ServiceUnavailable, match="Nothing was published"):
        backend.open(tmp_path / "cache").push(checkpoint, tmp_path / "run")
    assert f"tester/{backend.name}-core-checkpoints" not in backend.stub.state.datasets


def test_files_served_as_zip_are_unwrapped(backend, tmp_path) -> None:
    checkpoint = big_run(tmp_path / "run")
    backend.stub.state.zip_wrap_over = 1000
    try:
        backend.open(tmp_path / "cache").push(checkpoint, tmp_path / "run")
        backend.open(tmp_path / "cache2").pull(STAGE, checkpoint.fingerprint, tmp_path / "b")
        assert verify(backend.open(tmp_path / "cache3")).problems == {}
    finally:
        backend.stub.state.zip_wrap_over = None
    assert_holds(checkpoint, tmp_path / "b")


def test_over_quota_is_named(backend, tmp_path) -> None:
    backend.stub.state.quota = 10
    try:
        with pytest.raises(CannotWrite, match="quota"):
            backend.open(tmp_path / "cache").push(make_run(tmp_path / "run"), tmp_path / "run")
    finally:
        backend.stub.state.quota = None


def test_a_dataset_that_comes_out_public_is_refused(backend, tmp_path) -> None:
    backend.stub.state.force_public = True
    try:
        with pytest.raises(NotPermitted, match="public"):
            backend.open(tmp_path / "cache").push(make_run(tmp_path / "run"), tmp_path / "run")
    finally:
        backend.stub.state.force_public = False


def test_wrong_credentials_are_named_and_the_key_is_not(backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "a-wrong-key-that-is-secret")
    with pytest.raises(NotPermitted, match="KAGGLE_KEY") as refused:
        backend.open(tmp_path / "cache").push(make_run(tmp_path / "run"), tmp_path / "run")
    assert "a-wrong-key" not in str(refused.value)


def test_a_lost_answer_makes_one_version_also_for_an_existing_dataset(backend, tmp_path) -> None:
    store = backend.open(tmp_path / "cache")
    store.push(make_run(tmp_path / "run", "one"), tmp_path / "run")
    backend.stub.state.processing = 1.0  # longer than the store waits before it looks again
    backend.stub.fault("CreateDatasetVersion", drop_after=True)
    store.push(make_run(tmp_path / "run", "two"), tmp_path / "run")
    assert len(backend.stub.dataset(f"{backend.name}-core-checkpoints").versions) == 2


def test_an_attached_snapshot_is_read_offline_and_later_pushes_go_on(backend, tmp_path) -> None:
    store = backend.open(tmp_path / "cache")
    checkpoint = make_run(tmp_path / "run")
    store.push(checkpoint, tmp_path / "run")
    freeze(store, tmp_path / "frozen")
    done = attach(store, tmp_path / "frozen")
    assert done["changed"] == []
    # What Kaggle mounts is the version's files, under their names.
    version = backend.stub.dataset(f"{backend.name}-core-checkpoints").versions[int(done["version"]) - 1]
    for name, blob in version.files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_bytes(blob.path.read_bytes())
    offline = backend.open(tmp_path / "cache2")
    offline.mount = Snapshot(tmp_path / "mount")
    backend.stub.fault("GetDataset", name=backend.name, status=503, times=100)
    assert offline.pull(STAGE, checkpoint.fingerprint, tmp_path / "b") == checkpoint
    assert_holds(checkpoint, tmp_path / "b")
    backend.stub.state.faults.waiting.clear()
    store.push(make_run(tmp_path / "run", "more"), tmp_path / "run")
    assert [one["kind"] for one in log(store)] == ["push", "freeze", "push"]
    assert verify(store).problems == {}


def test_the_url_opens_the_same_store(backend, tmp_path) -> None:
    checkpoint = make_run(tmp_path / "run")
    opened = open_store(f"kaggle://tester/{backend.name}", tmp_path / "cache")
    opened.push(checkpoint, tmp_path / "run")
    assert list(backend.open(tmp_path / "cache2").checkpoints()) == [checkpoint]


assert QUICK.settle_s < 1.0  # the lost-answer test relies on it
