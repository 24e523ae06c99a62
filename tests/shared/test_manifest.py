from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import schema.__main__ as schemas
from shared.checkpoint import is_confined
from shared.digests import sha256_file
from shared.errors import GowhyError, IntegrityError, MissingInput, NotPermitted
from shared.manifest import Manifest, load_manifest, parse_manifest
from shared.manifest.reading import MAX_BYTES

REPOSITORY = Path(__file__).resolve().parents[2]


def make_run(folder: Path, **changes) -> Path:
    """The smallest complete run: one artefact, two configs, a bundle manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config_raw.json", "config_resolved.json", "model_manifest.json", "submission.tsv"):
        (folder / name).write_text(f"{name}\n")

    def record(name: str) -> dict[str, object]:
        file = folder / name
        return {"path": name, "sha256": sha256_file(file), "size": file.stat().st_size, "rows": None}

    document = {
        "manifest_version": "1.0",
        "run_id": "r",
        "status": "complete",
        "created_at": "2026-01-01T00:00:00+00:00",
        "git": {"commit": None, "is_dirty": None, "remote": None},
        "python": "CPython 3.11.7",
        "torch": "2.13.0",
        "cuda": None,
        "env_lock": {"name": None, "hash": None, "policy": "warn", "verified": False, "packages_digest": "x"},
        "dataset": {"name": "demo", "version": "1", "split": "", "hashes": {}},
        "encoder": [{"arch": "esm2", "dim": 8, "weights": "random-init(0)"}],
        "checkpoints": [],
        "config_path": "config_raw.json",
        "config_resolved_path": "config_resolved.json",
        "artifacts": {"metrics": [], "figures": [], "plots": []},
        "transforms": {"version": "v1", "normalize": False, "mean": None, "std": None},
        "modalities": {},
        "stages": [
            {
                "id": "stage_09_submission",
                "fingerprint": "f",
                "started": "s",
                "finished": "f",
                "status": "done",
                "outputs": [record("submission.tsv")],
            }
        ],
        "checks": {"train_rows": 1, "test_rows": 1, "compared": []},
        "seeds": {},
        "splits": {},
        "store": {"url": "memory://", "datasets": {}, "private": True},
        "model": {"path": "model_manifest.json", "sha256": sha256_file(folder / "model_manifest.json")},
        "metrics": {},
        "files": [record("config_raw.json"), record("config_resolved.json")],
        **changes,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(document))
    return path


def validate(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shared.manifest", "validate", str(path), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_whole_run_is_valid(tmp_path) -> None:
    path = make_run(tmp_path)
    manifest = load_manifest(path)
    jsonschema.validate(manifest.model_dump(mode="json"), schemas.document("manifest.v1.json"))
    done = validate(path, "--json")
    assert (done.returncode, json.loads(done.stdout)["files"]) == (0, 3)


@pytest.mark.parametrize("name", ["submission.tsv", "config_raw.json", "model_manifest.json"])
def test_one_changed_byte_is_named_with_both_hashes(tmp_path, name) -> None:
    path = make_run(tmp_path)
    before = sha256_file(tmp_path / name)
    data = bytearray((tmp_path / name).read_bytes())
    data[0] ^= 1
    (tmp_path / name).write_bytes(data)
    done = validate(path)
    assert done.returncode == 80
    assert all(word in done.stderr for word in (name, before, sha256_file(tmp_path / name)))


def test_what_is_refused_and_how(tmp_path) -> None:
    path = make_run(tmp_path)
    (tmp_path / "submission.tsv").unlink()
    assert validate(path).returncode == 80
    assert validate(tmp_path / "nothing.json").returncode == 66
    assert validate(path, "--nonsense").returncode == 64
    with pytest.raises(MissingInput):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"manifest_version": "2.0"}, IntegrityError),
        ({"manifest_version": None}, IntegrityError),
        ({"status": "partial"}, IntegrityError),
        ({"run_id": "../x"}, IntegrityError),
        ({"stages": "none"}, IntegrityError),
        ({"config_path": "/etc/passwd"}, NotPermitted),
        ({"config_path": "../x"}, NotPermitted),
        ({"checkpoints": ["a/../../b"]}, NotPermitted),
        ({"checkpoints": ["missing.pth"]}, IntegrityError),
        ({"artifacts": {"metrics": ["..\\x"], "figures": [], "plots": []}}, NotPermitted),
        ({"transforms": {"version": "v1", "normalize": True, "mean": {"path": "/x"}, "std": None}}, NotPermitted),
    ],
)
def test_a_wrong_document_is_refused(tmp_path, changes, error) -> None:
    with pytest.raises(error):
        load_manifest(make_run(tmp_path, **changes))


def test_a_link_out_of_the_run_folder_is_refused(tmp_path) -> None:
    path = make_run(tmp_path / "run")
    secret = tmp_path / "secret"
    secret.write_bytes((tmp_path / "run/submission.tsv").read_bytes())
    (tmp_path / "run/submission.tsv").unlink()
    (tmp_path / "run/submission.tsv").symlink_to(secret)
    with pytest.raises(NotPermitted, match="outside"):
        load_manifest(path)


def test_a_huge_manifest_is_not_parsed(tmp_path) -> None:
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + (1 << 30))
    with pytest.raises(IntegrityError, match="at most"):
        load_manifest(path)


def test_unknown_fields_are_kept(tmp_path) -> None:
    manifest = load_manifest(make_run(tmp_path, later={"field": [1]}))
    assert Manifest.model_validate_json(manifest.model_dump_json()).model_dump()["later"] == {"field": [1]}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_manifests_are_accepted_or_refused_cleanly(data, tmp_path) -> None:
    text = make_run(tmp_path).read_bytes()
    position = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 40))
    mutated = text[:position] + data.draw(st.binary(max_size=20)) + text[position + length :]
    try:
        parse_manifest(mutated, where="fuzz")
    except GowhyError as error:
        assert error.exit_code in (77, 80)


@given(st.text(max_size=30))
def test_a_confined_path_stays_inside(text) -> None:
    if is_confined(text):
        assert os.path.normpath(os.path.join("/root", text)).startswith("/root")
