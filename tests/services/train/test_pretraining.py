"""Masked-language modelling of a tiny ESM-2: it learns, resumes to the same bytes, and its encoder loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EsmForMaskedLM

from services.train import pretraining
from services.train.cli import build_parser
from services.train.pretraining import IGNORED, MASK, disturbed, encode, encoder_tensors, pretrain, split
from shared.config import PretrainConfig
from shared.config.embed import EncoderConfig
from shared.digests import sha256_file
from shared.edge import main
from shared.errors import ConfigError, DataError, GowhyError, IntegrityError
from shared.nn.encoders import load_encoder
from shared.nn.encoders.esm2 import CLS, EOS, PAD, TOKENS

TINY = PretrainConfig.model_validate(
    {
        "encoder": "esm2_tiny",
        "steps": 12,
        "sequences": 8,
        "max_length": 24,
        "learning_rate": 5e-3,
        "held_out": 10,
        "save_every": 4,
    }
)


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repeats of three words, so that a residue's neighbours tell what it is."""
    rng = np.random.default_rng(0)
    words = ["ACDEF", "GHIKL", "MNPQR"]
    path = tmp_path_factory.mktemp("fasta") / "words.fasta"
    lines = [f">P{i:05d}\n{''.join(rng.choice(words, 8))}\n" for i in range(60)]
    path.write_text("".join(lines))
    return path


def run(fasta: Path, out: Path, config: PretrainConfig = TINY) -> dict:
    return pretrain([fasta], out, config, device="cpu", threads=1)


def digests(out: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def finished(fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder")
    run(fasta, out)
    return out


def test_what_is_left_is_the_encoder_its_card_and_its_record(finished: Path) -> None:
    assert set(digests(finished)) == {"README.md", "config.json", "model.safetensors", "training.json"}
    record = json.loads((finished / "training.json").read_text())
    assert [row["step"] for row in record["losses"]] == [4, 8, 12]
    assert record["sha256"] == sha256_file(finished / "model.safetensors")
    assert record["proteins"] == 50
    assert record["size_mb"] == pytest.approx(2 * record["parameters"] / 1e6, rel=0.1)
    card = (finished / "README.md").read_text()
    assert f"{record['losses'][-1]['held_out']:.3f} nats" in card
    assert "What it is not" in card


def test_the_encoder_loads_and_is_the_network_that_was_trained(
    fasta: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[EsmForMaskedLM] = []
    finish = pretraining.finish
    monkeypatch.setattr(
        pretraining,
        "finish",
        lambda training, *rest, **more: kept.append(training.model) or finish(training, *rest, **more),
    )
    run(fasta, tmp_path / "again")
    encoder = load_encoder(EncoderConfig(name="esm2_tiny", weights=str(finished)), "cpu")
    sequence = "ACDEFGHIKLMNPQR"
    tokens = torch.tensor([[CLS, *encode(sequence).tolist(), EOS]])
    model = kept[0].eval().to(torch.float16).to(torch.float32)  # the file holds float16
    with torch.inference_mode():
        wanted = model.esm(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0, 1:-1]
    np.testing.assert_allclose(encoder.residues(sequence).detach().numpy(), wanted.numpy(), atol=2e-4)
    assert not np.allclose(
        encoder.embed([sequence]), load_encoder(EncoderConfig(name="esm2_tiny"), "cpu").embed([sequence])
    )


def test_it_learns_what_neighbours_tell(fasta: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"steps": 150, "save_every": 50, "sequences": 16})
    losses = run(fasta, tmp_path, config)["losses"]
    assert losses[-1]["held_out"] < 0.75 * np.log(15)  # the fifteen residues alone are worth that logarithm
    assert losses[-1]["held_out"] < losses[0]["held_out"] - 0.3


@pytest.mark.parametrize("at", [1, 5, 8, 11])
def test_killed_at_any_step_it_ends_in_the_same_bytes(
    fasta: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    real, calls = pretraining.loss_of, []

    def dying(model, batch, config, device):
        if model.training:
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
        return real(model, batch, config, device)

    out = tmp_path / "killed"
    monkeypatch.setattr(pretraining, "loss_of", dying)
    with pytest.raises(KeyboardInterrupt):
        run(fasta, out)
    assert (out / "state.pth").exists() == (at > TINY.save_every)
    run(fasta, out)
    assert len(calls) == at + 12 - (at - 1) // TINY.save_every * TINY.save_every  # only what was not saved again
    assert digests(out) == digests(finished)


def test_a_finished_training_is_not_repeated(fasta: Path, finished: Path) -> None:
    before = digests(finished)
    assert run(fasta, finished) == json.loads((finished / "training.json").read_text())
    assert digests(finished) == before


def test_another_training_is_refused(fasta: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="other settings"):
        run(fasta, finished, TINY.model_copy(update={"seed": 1}))
    other = tmp_path / "other.fasta"
    other.write_text(fasta.read_text().replace("ACDEF", "ACDEW"))
    with pytest.raises(IntegrityError, match="sequences"):
        run(other, finished)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.pth").write_bytes(b"no checkpoint")
    with pytest.raises(IntegrityError, match="Delete it"):
        run(fasta, tmp_path / "out")


def test_masks_crops_and_padding_are_those_of_esm2() -> None:
    generator = np.random.default_rng(1)
    config = TINY.model_copy(update={"max_length": 200})
    sequences = [encode("ACDEFGHIKLMNPQRSTVWY" * 20) for _ in range(40)] + [encode("MK")]
    batch = disturbed(sequences, config, generator)
    tokens, labels = batch.tokens.numpy(), batch.labels.numpy()
    assert tokens.shape == (41, 202)
    assert (tokens[:, 0] == CLS).all()
    assert tokens[0, 201] == tokens[40, 3] == EOS
    assert (tokens[40, 4:] == PAD).all()
    np.testing.assert_array_equal(batch.attention.numpy(), tokens != PAD)
    asked = labels != IGNORED
    assert not asked[:, 0].any()
    assert not asked[tokens == PAD].any()
    assert asked.any(axis=1).all()
    assert asked[:40, 1:201].mean() == pytest.approx(0.15, abs=0.02)
    assert (tokens[asked] == MASK).mean() == pytest.approx(0.8, abs=0.03)
    assert (tokens[asked] == labels[asked]).mean() == pytest.approx(0.1 + 0.1 / 20, abs=0.03)
    letters = "ACDEFGHIKLMNPQRSTVWY" * 20
    read = "".join(
        TOKENS[label] if label != IGNORED else TOKENS[token]
        for token, label in zip(tokens[3, 1:201], labels[3, 1:201], strict=True)
    )
    assert read in letters  # a crop, and the labels are what stood there


def test_held_out_proteins_are_not_trained_on(fasta: Path, tmp_path: Path) -> None:
    held_out, trained = split(60, TINY)
    assert len(held_out) == 10
    assert not set(held_out) & set(trained)
    assert len(np.union1d(held_out, trained)) == 60
    with pytest.raises(DataError, match="10 are held out"):
        split(10, TINY)


def test_unfit_encoders_are_refused(fasta: Path, tmp_path: Path) -> None:
    for name, why in (("prott5_tiny", "no ESM-2"), ("esm9", "no ESM-2"), ("esm2_t33_650M", "float16, more than 20")):
        with pytest.raises(ConfigError, match=why):
            run(fasta, tmp_path, TINY.model_copy(update={"encoder": name}))


def test_the_size_that_is_foreseen_is_the_size_that_is_written(finished: Path) -> None:
    shape = pretraining.shape_of(TINY)
    foreseen = shape.layers * (12 * shape.dim**2 + 13 * shape.dim) + 35 * shape.dim
    assert json.loads((finished / "training.json").read_text())["parameters"] == pytest.approx(foreseen, rel=0.02)


def test_a_loss_that_is_not_finite_stops_it(fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pretraining.loss_of
    monkeypatch.setattr(pretraining, "loss_of", lambda *arguments: real(*arguments) * float("nan"))
    with pytest.raises(GowhyError, match="learning_rate"):
        run(fasta, tmp_path)


def test_weights_beyond_float16_are_refused() -> None:
    model = torch.nn.Module()
    state = {"esm.encoder.layer.0.LayerNorm.weight": torch.tensor([1e6]), "lm_head.bias": torch.zeros(1)}
    model.state_dict = lambda: state  # type: ignore[method-assign,assignment]
    with pytest.raises(GowhyError, match="float16"):
        encoder_tensors(model)


def test_the_verb_writes_and_says_how_to_use_it(
    fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    sets = [
        f"pretrain.{name}={value}"
        for name, value in {"encoder": "esm2_tiny", "steps": 2, "sequences": 4, "max_length": 16, "held_out": 4}.items()
    ]
    words = ["pretrain", "--fasta", str(fasta), "--out", str(out), "--threads", "1", "--device", "cpu"]
    assert main(build_parser(), [*words, *(word for item in sets for word in ("--set", item))]) == 0
    said = capsys.readouterr().out
    assert f"embed.esm2.weights={out}" in said
    assert (out / "model.safetensors").is_file()
