"""Stages 5 and 6 on generated proteins: rows, cache, resume after SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes.contexts import output, output_bytes, run_stage

from services.train.embedding import batches, half
from services.train.stages import stage_05_embeddings_t5, stage_06_embeddings_esm2
from shared.config import Config, EmbedConfig
from shared.config.embed import EncoderConfig
from shared.errors import DataError
from shared.nn.encoders import load_encoder
from shared.nn.encoders.encoder import TransformerEncoder

REPOSITORY = Path(__file__).resolve().parents[3]
STAGES = {"t5": stage_05_embeddings_t5.STAGE, "esm2": stage_06_embeddings_esm2.STAGE}
SMALL = {
    "t5": EncoderConfig(name="prott5_tiny", window=64, tokens_per_batch=128),
    "esm2": EncoderConfig(name="esm2_tiny", window=64, tokens_per_batch=128),
}
RECORD_BYTES = 32 + 2 * 64 + 16


def proteins(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), int(n))) for n in rng.integers(5, 150, count)]


def inputs(train: list[str], test: list[str]) -> dict[str, pd.DataFrame]:
    return {
        f"parsed/{part}_seq.feather": pd.DataFrame(
            {"id": [f"{part}{n}" for n in range(len(rows))], "sequence": pd.array(rows, dtype="str")}
        )
        for part, rows in (("train", train), ("test", test))
    }


@pytest.fixture
def embedded(monkeypatch) -> list[str]:
    """Every sequence that goes through the model."""
    seen: list[str] = []
    embed = TransformerEncoder.embed

    def counted(self, sequences):
        seen.extend(sequences)
        return embed(self, sequences)

    monkeypatch.setattr(TransformerEncoder, "embed", counted)
    return seen


@pytest.mark.parametrize("modality", ["t5", "esm2"])
def test_rows_are_the_encoders_vectors_in_the_order_of_the_table(tmp_path, embedded, modality: str) -> None:
    train, test = proteins(12), proteins(5, seed=1)
    train[7] = train[2]
    test[0] = train[4]
    config = Config(embed=EmbedConfig(**SMALL))
    ctx = run_stage(STAGES[modality], tmp_path, inputs(train, test), config)
    assert sorted(embedded) == sorted({*train, *test}), "each distinct sequence once"
    encoder = load_encoder(output(ctx, f"features/encoder_{modality}.json"), "cpu")
    for part, sequences in (("train", train), ("test", test)):
        array = output(ctx, f"features/{part}_embeds_{modality}.npy")
        assert array.dtype == np.float16
        assert np.array_equal(array, encoder.embed(sequences).astype(np.float16))
    assert encoder.describe() == output(ctx, f"features/encoder_{modality}.json")
    assert "random weights" in (tmp_path / "logs/run.jsonl").read_text()


@pytest.mark.parametrize("modality", ["t5", "esm2"])
def test_no_encoder_leaves_the_modality_absent(tmp_path, modality: str) -> None:
    ctx = run_stage(
        STAGES[modality], tmp_path, inputs(proteins(3), proteins(2)), Config(embed=EmbedConfig(t5=None, esm2=None))
    )
    assert output(ctx, f"features/train_embeds_{modality}.npy").shape == (3, 0)
    assert output(ctx, f"features/test_embeds_{modality}.npy").shape == (2, 0)
    assert output(ctx, f"features/encoder_{modality}.json") == {"absent": True}


def test_no_test_proteins(tmp_path) -> None:
    ctx = run_stage(STAGES["esm2"], tmp_path, inputs(proteins(3), []), Config(embed=EmbedConfig(**SMALL)))
    assert output(ctx, "features/test_embeds_esm2.npy").shape == (0, 64)


def test_cached_vectors_are_used_and_change_no_byte(tmp_path, embedded) -> None:
    train, test = proteins(12), proteins(5, seed=1)
    config = Config(embed=EmbedConfig(**SMALL))
    fresh = output_bytes(run_stage(STAGES["esm2"], tmp_path / "fresh", inputs(train, test), config))
    # A cache that other proteins filled, in other batches.
    run_stage(STAGES["esm2"], tmp_path / "warm", inputs(train[::2], proteins(3, seed=2)), config)
    embedded.clear()
    warm = output_bytes(run_stage(STAGES["esm2"], tmp_path / "warm", inputs(train, test), config, attempt="second"))
    assert warm == fresh
    assert sorted(embedded) == sorted([*train[1::2], *test])


@pytest.mark.parametrize("change", [{"weights": "random-init(1)"}, {"window": 50}, {"overlap": 4}], ids=str)
def test_another_encoder_never_hits_the_cache(tmp_path, embedded, change) -> None:
    rows = inputs(proteins(4), [])
    run_stage(STAGES["esm2"], tmp_path, rows, Config(embed=EmbedConfig(esm2=SMALL["esm2"])))
    embedded.clear()
    run_stage(
        STAGES["esm2"],
        tmp_path,
        rows,
        Config(embed=EmbedConfig(esm2=EncoderConfig(**{**SMALL["esm2"].model_dump(), **change}))),
        attempt="other",
    )
    assert len(embedded) == 4


def test_a_damaged_record_is_made_again(tmp_path, embedded) -> None:
    rows, config = inputs(proteins(6), []), Config(embed=EmbedConfig(**SMALL))
    first = output_bytes(run_stage(STAGES["esm2"], tmp_path, rows, config))
    (shard,) = (tmp_path / "cache").rglob("shard-*.bin")
    data = bytearray(shard.read_bytes())
    data[40] ^= 255
    shard.write_bytes(data)
    embedded.clear()
    assert output_bytes(run_stage(STAGES["esm2"], tmp_path, rows, config, attempt="second")) == first
    assert len(embedded) == 1
    assert "damaged cached vectors" in (tmp_path / "logs/run.jsonl").read_text()


def test_killed_and_resumed_run_writes_the_same_bytes(tmp_path, embedded) -> None:
    rows, config = inputs(proteins(300), proteins(20, seed=1)), Config(embed=EmbedConfig(**SMALL))
    script = tmp_path / "killed.py"
    script.write_text(
        "import runpy, sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / 'tests')!r}]\n"
        f"test = runpy.run_path({__file__!r})\n"
        "rows = test['inputs'](test['proteins'](300), test['proteins'](20, seed=1))\n"
        "config = test['Config'](embed=test['EmbedConfig'](**test['SMALL']))\n"
        f"test['run_stage'](test['STAGES']['esm2'], Path({str(tmp_path / 'killed')!r}), rows, config)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE
    )
    try:
        shard = wait_for_records(tmp_path / "killed/cache", process)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    saved = shard.stat().st_size // RECORD_BYTES
    assert 40 <= saved < 320
    with shard.open("ab") as file:
        file.write(b"torn")
    resumed = output_bytes(run_stage(STAGES["esm2"], tmp_path / "killed", rows, config, attempt="resumed"))
    assert len(embedded) == 320 - saved, "no saved sequence is embedded again"
    assert resumed == output_bytes(run_stage(STAGES["esm2"], tmp_path / "undisturbed", rows, config))


def wait_for_records(cache: Path, process: subprocess.Popen[bytes]) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for shard in cache.rglob("shard-*.bin"):
            if shard.stat().st_size >= 40 * RECORD_BYTES:
                return shard
        time.sleep(0.002)
    raise AssertionError(process.communicate()[1].decode()[-2000:])


def test_batches_are_long_to_short_within_the_budget() -> None:
    distinct = {bytes([n]): "A" * length for n, length in enumerate([5, 300, 7, 7, 40, 1])}
    found = [[len(distinct[key]) for key in batch] for batch in batches(distinct, 50)]
    assert found == [[300], [40, 7], [7, 5, 1]]
    assert list(batches(dict(reversed(distinct.items())), 50)) == list(batches(distinct, 50))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_vector_that_float16_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="3 residues"):
        half(np.array([[0, 1], [value, 1]], np.float32), ["M", "MKT"])
