"""Old pickled models become safe bundles, and a pickle that wants to run something runs nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.train.cli import build_parser
from services.train.convert import convert
from services.train.legacy_pickle import read_legacy_pickle
from shared.digests import sha256_file
from shared.edge import main
from shared.errors import CannotWrite, DataError, GowhyError, IntegrityError, MissingInput, NotPermitted
from shared.models.bundle import read_bundle_manifest, read_npz
from shared.nn.weights import read_model_file

STATE = {
    "a/weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a/half": torch.ones(2, dtype=torch.float16),
    "a/view": torch.arange(10)[2:8:2],
    "b/array": np.linspace(0, 1, 4),
}
MODEL = {
    "state_dict": OrderedDict(STATE),
    "metadata": {
        "terms": {"MF": ["GO:1"]},
        "low_conf_threshold": {"MF": np.float64(0.25)},
        "n": np.int64(3),
        "x": None,
    },
    "architecture": {"layers": 2},
    "members": {"ids": np.array(["P1", "P2"]), "flags": np.array([True, False])},
    "reference": {"embeddings": np.ones((2, 3), np.float16)},
    "ontology": {"terms": ["GO:1"]},
    "proteins": [("P1", "MKV"), ("P2", "ACD")],
}


class Evil:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dump(value, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_becomes_files_without_pickle(tmp_path, protocol) -> None:
    source = dump(MODEL, tmp_path / "model.pkl", protocol)
    done = convert(source, tmp_path / "out", allow_legacy_pickle=True)
    architecture, state = read_model_file(tmp_path / "out/model.pth")
    assert architecture == {"layers": 2}
    assert set(state) == set(STATE)
    for name, value in STATE.items():
        expected = value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
        assert torch.equal(state[name], expected)
        assert state[name].dtype == expected.dtype
    metadata = json.loads((tmp_path / "out/model_metadata.json").read_bytes())
    assert (metadata["low_conf_threshold"], metadata["n"], metadata["x"]) == ({"MF": 0.25}, 3, None)
    assert read_npz(tmp_path / "out/model_members.npz")["ids"].tolist() == ["P1", "P2"]
    assert (tmp_path / "out/model_reference.fasta").read_text() == ">P1\nMKV\n>P2\nACD\n"
    bundle = read_bundle_manifest(tmp_path / "out/model_manifest.json")
    assert {name: sha256_file(tmp_path / "out" / name) for name in bundle.digests} == bundle.digests
    assert set(done.files) == {*bundle.digests, "model_manifest.json"}
    assert not done.loadable  # this one's metadata describe no whole model
    assert done.problem


def test_gzip_and_torch_save_are_read_too(tmp_path) -> None:
    packed = tmp_path / "model.pkl.gz"
    packed.write_bytes(gzip.compress(pickle.dumps(MODEL)))
    saved, old = tmp_path / "model.pt", tmp_path / "old.pkl"
    plain = {"state_dict": {"w": STATE["a/weight"]}, "metadata": {"terms": {}}}
    torch.save(plain, saved)
    torch.save(plain, old, _use_new_zipfile_serialization=False)
    assert torch.equal(read_legacy_pickle(packed)["state_dict"]["a/weight"], STATE["a/weight"])
    for path in (saved, old):
        assert torch.equal(read_legacy_pickle(path)["state_dict"]["w"], STATE["a/weight"])


def test_without_the_flag_the_file_is_not_even_opened(tmp_path) -> None:
    with pytest.raises(NotPermitted, match="--allow-legacy-pickle"):
        convert(tmp_path / "absent.pkl", tmp_path / "out")


def attacks(marker: Path) -> dict[str, bytes]:
    """Files that would leave a mark if anything in them ran."""
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    calls = {
        "os.system": Evil(os.system, touch),
        "eval": Evil(eval, code),
        "exec": Evil(exec, code),
        "open": Evil(open, str(marker), "w"),
        "Path.touch": Evil(Path.touch, marker),
        "torch.load": Evil(torch.load, str(marker)),
        "getattr": Evil(getattr, "text", "format"),
        "np.load": Evil(np.load, str(marker), None, True),
        "torch.storage": Evil(torch.storage._load_from_bytes, saved(Evil(os.system, touch))),
        "torch.storage, old format": Evil(torch.storage._load_from_bytes, saved(Evil(os.system, touch), new=False)),
        "array of a class": Evil(np.empty(0).__reduce__()[0], os.system, (0,), b"b"),
        "scalar of objects": Evil(np.float64(1).__reduce__()[0], np.dtype("O"), pickle.dumps(Evil(os.system, touch))),
        "in an array of objects": np.array([Evil(os.system, touch)], dtype=object),
    }
    found = {name: pickle.dumps({"state_dict": {}, "metadata": call}) for name, call in calls.items()}
    found |= {f"{name}, zipped": gzip.compress(data) for name, data in list(found.items())[:2]}
    found["torch.save"] = saved({"state_dict": Evil(os.system, touch), "metadata": {}})
    found["torch.save, old format"] = saved({"state_dict": Evil(os.system, touch), "metadata": {}}, new=False)
    found["dotted name"] = b"\x80\x04\x8c\x05numpy\x8c\x1andarray.__class__.__base__X\x93."
    found["protocol 0"] = f"cos\nsystem\n(S'{touch}'\ntR.".encode()
    found["set on our function"] = (
        b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93N}\x8c\x0c__defaults__\x8c\x01xs\x86b."
    )
    return found


def saved(value, *, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", attacks(Path("unused")))
def test_an_evil_pickle_runs_nothing(tmp_path, name, capsys) -> None:
    marker = tmp_path / "ran"
    source = tmp_path / "model.pkl"
    source.write_bytes(attacks(marker)[name])
    # A name that is known, called with what it does not take, is damage; all else is refused by name.
    damage = name in {"dotted name", "set on our function"}
    with pytest.raises(GowhyError) as caught:
        convert(source, tmp_path / "out", allow_legacy_pickle=True)
    assert isinstance(caught.value, (IntegrityError, DataError) if damage else NotPermitted), caught.value
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("services.train.legacy_pickle.MAX_BYTES", 1 << 20)
    source = tmp_path / "m.pkl.gz"
    source.write_bytes(gzip.compress(b"\0" * (3 << 20)))
    with pytest.raises(IntegrityError, match="when unpacked"):
        read_legacy_pickle(source)


def test_the_attacks_do_run_with_plain_pickle(tmp_path) -> None:
    marker = tmp_path / "ran"
    pickle.loads(attacks(marker)["os.system"])
    assert marker.exists()


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_end_in_a_named_error_or_in_data(tmp_path_factory, noise, at) -> None:
    good = pickle.dumps({"state_dict": {}, "metadata": {"a": [1, 2.5, "x"]}})
    path = tmp_path_factory.mktemp("m") / "m.pkl"
    path.write_bytes(good[: at * 12] + noise)
    try:
        read_legacy_pickle(path)
    except GowhyError as error:
        assert error.exit_code in (77, 80)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state_dict": [1]}, "state_dict is no dict"),
        ({"state_dict": {"w": 3}}, "'w' is neither"),
        ({"state_dict": {1: STATE["a/half"]}}, "1 is neither"),
        ({"metadata": {"t": STATE["a/half"]}}, "Tensor"),
        ({"metadata": {3: "x"}}, "key 3"),
        ({"extra": 1}, "unknown keys: extra"),
        ({"proteins": [("P1",)]}, "no pair"),
        ({"proteins": [("P1\n>X", "MK")]}, "no pair"),
    ],
)
def test_another_layout_is_named(tmp_path, change, words) -> None:
    source = dump({**MODEL, **change}, tmp_path / "m.pkl")
    with pytest.raises(DataError, match=words):
        convert(source, tmp_path / "out", allow_legacy_pickle=True)


def test_missing_keys_no_file_not_a_dict_and_a_full_folder(tmp_path) -> None:
    with pytest.raises(DataError, match="missing keys: metadata"):
        convert(dump({"state_dict": {}}, tmp_path / "m.pkl"), tmp_path / "out", allow_legacy_pickle=True)
    with pytest.raises(DataError, match="a list"):
        convert(dump([1], tmp_path / "m.pkl"), tmp_path / "out", allow_legacy_pickle=True)
    with pytest.raises(MissingInput):
        convert(tmp_path / "none.pkl", tmp_path / "out", allow_legacy_pickle=True)
    with pytest.raises(CannotWrite, match="not empty"):
        convert(dump(MODEL, tmp_path / "m.pkl"), tmp_path, allow_legacy_pickle=True)


def test_parts_beside_the_pickle_are_taken(tmp_path) -> None:
    (tmp_path / "model_ontology.json").write_text("{}")
    source = dump({key: MODEL[key] for key in ("state_dict", "metadata")}, tmp_path / "m.pkl")
    done = convert(source, tmp_path / "out", allow_legacy_pickle=True)
    assert "model_ontology.json" in read_bundle_manifest(tmp_path / "out/model_manifest.json").digests
    assert "model_members.npz" in str(done.problem)


def test_the_verb_warns_and_says_what_it_made(tmp_path, capsys) -> None:
    source = dump(MODEL, tmp_path / "m.pkl")
    assert main(build_parser(), ["convert", str(source), "--out", str(tmp_path / "o")]) == 77
    assert (
        main(build_parser(), ["convert", str(source), "--out", str(tmp_path / "o"), "--allow-legacy-pickle", "--json"])
        == 0
    )
    said = capsys.readouterr()
    assert "is a pickle" in said.err
    assert json.loads(said.out)["loadable"] is False
