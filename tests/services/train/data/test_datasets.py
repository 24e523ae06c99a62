from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import get_args

import pytest

from services.train.data import DATASETS, dataset_defaults
from services.train.data import datasets as registry
from shared.config import DataConfig
from shared.errors import ConfigError, MissingInput


def test_the_config_knows_exactly_the_registrys_names() -> None:
    assert set(get_args(DataConfig.model_fields["name"].annotation)) == set(DATASETS)


def test_entries_name_keys_of_the_config_only() -> None:
    for names in (registry._TINY, registry._MEDIUM, registry._CAFA5, registry._CAFA6):
        assert set(names) <= set(DataConfig.input_files())


def make_files(root: Path, names: dict[str, object]) -> None:
    for name in names.values():
        path = root / (name if isinstance(name, str) else name[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "folder", "names"),
    [
        ("tiny", "tiny", registry._TINY),
        ("medium", ".", registry._MEDIUM),
        ("cafa5", "cafa5", registry._CAFA5),
        ("cafa6", "cafa6", registry._CAFA6),
    ],
)
def test_files_are_found_under_the_data_folder(tmp_path, monkeypatch, name, folder, names) -> None:
    make_files(tmp_path / folder, names)
    monkeypatch.setenv("GOWHY_DATA", str(tmp_path))
    found = dataset_defaults(name, "1", tmp_path / "out")
    assert set(found) == set(names)
    assert all(path.is_file() for path in found.values())
    found["obo"].unlink()
    with pytest.raises(MissingInput, match=r"1 of \d+ dataset files are missing.*go-basic.obo"):
        dataset_defaults(name, "1", tmp_path / "out")


def test_without_data_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOWHY_DATA", raising=False)
    monkeypatch.setattr(registry, "DEFAULT_DATA", tmp_path / "absent")
    with pytest.raises(MissingInput, match=r"GOWHY_DATA is not set.*Export GOWHY_DATA") as caught:
        dataset_defaults("tiny", "1", tmp_path)
    assert caught.value.exit_code == 66
    monkeypatch.setenv("GOWHY_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(MissingInput, match="is no folder"):
        dataset_defaults("medium", "1", tmp_path)


@pytest.mark.parametrize(("name", "version"), [("large", "1"), ("tiny", "2")])
def test_unknown_names_and_versions_list_the_known(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(ConfigError, match="Known: "):
        dataset_defaults(name, version, tmp_path)


def test_files_has_no_defaults(tmp_path: Path) -> None:
    assert dataset_defaults("files", "1", tmp_path) == {}


def test_generated_data_are_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def write_demo(folder: Path, *, size: str, seed: int) -> dict[str, Path]:
        calls.append((size, seed))
        path = folder / "deep" / "train.fasta"
        path.parent.mkdir()
        path.write_text(">A\nMKV\n")
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"train_fasta": path, "motifs": folder / "motifs.tsv"}

    module = types.ModuleType("services.train.data.demo")
    module.write_demo = write_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "services.train.data.demo", module)
    with pytest.raises(KeyboardInterrupt):
        dataset_defaults("smoke", "1", tmp_path)
    assert list((tmp_path / "cache").iterdir()) == [], "an interrupted generation leaves nothing"
    first = dataset_defaults("smoke", "1", tmp_path)
    second = dataset_defaults("smoke", "1", tmp_path)
    assert first == second == {"train_fasta": tmp_path / "cache" / "smoke-1" / "deep" / "train.fasta"}
    assert calls == [("smoke", registry.DEMO_SEED)] * 2


@pytest.mark.parametrize("finished", [True, False])
def test_generated_data_of_a_process_that_was_first_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    folder = tmp_path / "cache" / "smoke-1"

    def write_demo(temporary: Path, *, size: str, seed: int) -> dict[str, Path]:
        folder.mkdir()
        (folder / "theirs").touch()
        if finished:
            (folder / "dataset.json").write_text('{"train_fasta": "theirs"}')
        (temporary / "ours").touch()
        return {"train_fasta": temporary / "ours"}

    module = types.ModuleType("services.train.data.demo")
    module.write_demo = write_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "services.train.data.demo", module)
    # What was left half-made by older means is replaced; a whole one may be in use already.
    assert dataset_defaults("smoke", "1", tmp_path) == {"train_fasta": folder / ("theirs" if finished else "ours")}


def test_the_registry_loads_no_numerical_library() -> None:
    code = "import sys, services.train.data; print(sorted({'numpy', 'pandas', 'torch'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[4]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.real_data
def test_real_entries_are_complete(gowhy_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOWHY_DATA", str(gowhy_data))
    assert len(dataset_defaults("tiny", "1", tmp_path)) == 8
    assert len(dataset_defaults("medium", "1", tmp_path)) == 10
