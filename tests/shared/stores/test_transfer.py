"""Transfers and waiting for the disk: as many transfers as the config says, and none held up by a flush."""

from __future__ import annotations

import hashlib
import threading
import time

from shared.checkpoint import Checkpoint, Output
from shared.config.root import StoreConfig
from shared.stores import open_store, transfer


def test_a_file_that_is_flushed_holds_no_transfer_up_and_transfers_stay_few(tmp_path, monkeypatch) -> None:
    files = {f"{n}.bin": bytes([n]) * 1000 for n in range(6)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    outputs = tuple(Output(n, hashlib.sha256(c).hexdigest(), len(c), None) for n, c in files.items())
    checkpoint = Checkpoint("stage_03_tfidf_text", 1, "a" * 64, {}, outputs, "", "")
    store = open_store(f"local://{tmp_path / 'store'}", tmp_path / "cache", StoreConfig(parallel=1))
    store.push(checkpoint, tmp_path)
    running, most, second = [0], [0], threading.Event()
    lock, receive, flush = threading.Lock(), transfer._receive, transfer.fsync_path

    def receiving(*arguments):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            time.sleep(0.05)  # long enough for another one to come in, were it let
            return receive(*arguments)
        finally:
            with lock:
                running[0] -= 1

    flushed = []

    def flushing(path) -> None:
        flushed.append(path)
        if path == flushed[0]:
            assert second.wait(30), "the first file's flush kept the second from being received and flushed"
        else:
            second.set()
        flush(path)

    monkeypatch.setattr(transfer, "_receive", receiving)
    monkeypatch.setattr(transfer, "fsync_path", flushing)
    into = tmp_path / "pulled"
    assert store.pull(checkpoint.stage, checkpoint.fingerprint, into) == checkpoint
    assert {name: (into / name).read_bytes() for name in files} == files
    assert most[0] == 1
