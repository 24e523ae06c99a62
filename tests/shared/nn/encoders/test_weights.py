"""Where weights come from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shared.config.embed import EncoderConfig
from shared.digests import sha256_file
from shared.errors import ConfigError, DataError, IntegrityError, MissingInput, ServiceUnavailable
from shared.nn.encoders import ENCODERS, Architecture, load_encoder
from shared.nn.encoders.weights import weight_files


def load(path: Path | str, name: str = "esm2_tiny", sha256: str | None = None):
    return load_encoder(EncoderConfig(name=name, weights=str(path), sha256=sha256), "cpu")


def state(name: str = "esm2_tiny", seed: int = 3) -> dict[str, torch.Tensor]:
    module = load(f"random-init({seed})", name).network.module
    return {name: value.contiguous().clone() for name, value in module.named_parameters()}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(state(), path)
    return path


def test_a_file_and_its_folder_are_the_same_weights(file: Path) -> None:
    encoder = load(file)
    assert encoder.weights_label == str(file)
    assert encoder.weights_sha256 == load(file.parent).weights_sha256 == sha256_file(file)
    assert np.array_equal(encoder.embed(["MKT"]), load("random-init(3)").embed(["MKT"]))
    assert load(file, sha256=sha256_file(file))


def test_shipped_weights_are_found_by_the_encoders_name(file: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shared.nn.encoders.weights.SHIPPED", tmp_path / "shipped")
    with pytest.raises(ConfigError, match="no weights of esm2_tiny are shipped"):
        load("shipped")
    (tmp_path / "shipped/esm2_tiny").mkdir(parents=True)
    file.rename(tmp_path / "shipped/esm2_tiny/model.safetensors")
    encoder = load("shipped")
    assert encoder.weights_label == "shipped:esm2_tiny"
    again = load_encoder(encoder.describe(), "cpu")
    assert again.weights_sha256 == encoder.weights_sha256
    assert np.array_equal(again.embed(["MKT"]), load("random-init(3)").embed(["MKT"]))


def test_shards_are_one_checkpoint_whose_digest_sees_each(file: Path) -> None:
    tensors = state()
    half = len(tensors) // 2
    for index, names in enumerate((sorted(tensors)[:half], sorted(tensors)[half:])):
        save_file({name: tensors[name] for name in names}, file.parent / f"model-{index}.safetensors")
    file.unlink()
    first = load(file.parent)
    assert np.array_equal(first.embed(["MKT"]), load("random-init(3)").embed(["MKT"]))
    tensors = state(seed=4)
    save_file({name: tensors[name] for name in sorted(tensors)[half:]}, file.parent / "model-1.safetensors")
    assert load(file.parent).weights_sha256 != first.weights_sha256


def test_a_bin_file_is_read_without_unpickling(tmp_path) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    assert np.array_equal(load(tmp_path).embed(["MKT"]), load("random-init(3)").embed(["MKT"]))


class Boom:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": state(), "extra": Boom()}, "esm2.pt")
    with pytest.raises(DataError, match="safely"):
        load("esm2.pt")
    assert not Path("boom").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02."], ids=["empty", "text", "pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "esm2.pt"])
def test_damaged_files_are_data_errors(tmp_path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert caught.value.exit_code == 65


def test_a_checkpoint_without_tensors_is_a_data_error(tmp_path) -> None:
    torch.save([1, 2], tmp_path / "esm2.pt")
    with pytest.raises(DataError, match="no tensors by name"):
        load(tmp_path / "esm2.pt")


def test_another_digest_is_refused_before_the_file_is_parsed(tmp_path) -> None:
    (tmp_path / "esm2.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(IntegrityError, match="sha256") as caught:
        load(tmp_path / "esm2.pt", sha256="1" * 64)
    assert caught.value.exit_code == 80


def change(tensors: dict[str, torch.Tensor], how: str) -> None:
    last = "encoder.layer.3.output.dense.weight"
    if how == "missing":
        del tensors[last]
    elif how == "shape":
        tensors[last] = torch.zeros(64, 255)
    else:
        tensors[last.replace("3", "4")] = tensors[last].clone()


@pytest.mark.parametrize(
    ("how", "message"),
    [("missing", "1 tensors are missing"), ("shape", r"\[64, 255\]"), ("unknown", "no place for the tensor")],
)
def test_weights_of_another_architecture_are_refused(tmp_path, how: str, message: str) -> None:
    tensors = state()
    change(tensors, how)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(IntegrityError, match=message):
        load(tmp_path)


def test_config_json_catches_what_shapes_do_not_show(file: Path) -> None:
    (file.parent / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
    with pytest.raises(IntegrityError, match="num_attention_heads is 8, not 4"):
        load(file.parent)
    (file.parent / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load(file.parent)


def test_missing_weights_say_what_may_be_given(tmp_path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingInput, match=r"safetensors.*random-init"):
            load(path)


def test_safetensors_are_read_first(tmp_path) -> None:
    for name in ("pytorch_model.bin", "model.safetensors", "esm2.pt"):
        (tmp_path / name).touch()
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]


def test_hub_without_a_network_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(ENCODERS, "esm2_t6_8M", Architecture(ENCODERS["esm2_tiny"].shape, ENCODERS["esm2_t6_8M"].hub))
    with pytest.raises(ServiceUnavailable, match=r"esm2_t6_8M_UR50D.*give the folder") as caught:
        load("hub", "esm2_t6_8M")
    assert caught.value.exit_code == 69
    with pytest.raises(ConfigError, match="no published weights"):
        load("hub")


def test_hub_loads_what_was_downloaded(file: Path, monkeypatch) -> None:
    asked = []

    def snapshot(repository: str, **_: object) -> str:
        asked.append(repository)
        return str(file.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setitem(ENCODERS, "esm2_t6_8M", Architecture(ENCODERS["esm2_tiny"].shape, "org/repository"))
    encoder = load("hub", "esm2_t6_8M")
    assert asked == ["org/repository"]
    assert encoder.weights_label == "hub:org/repository"
    assert load_encoder(encoder.describe(), "cpu").weights_sha256 == sha256_file(file)


def test_a_record_can_be_pointed_at_weights_elsewhere(file: Path, tmp_path) -> None:
    record = load(file).describe()
    moved = tmp_path / "elsewhere.safetensors"
    file.rename(moved)
    with pytest.raises(MissingInput):
        load_encoder(record, "cpu")
    assert load_encoder(record, "cpu", weights=str(moved)).weights_sha256 == record["weights_sha256"]
