"""models/, features/ and logs/ of a finished run say what they hold."""

from __future__ import annotations

import json

import jsonschema
import pytest
from fakes.finished_run import make_finished_run, moment

import schema.__main__ as schemas
from services.train.artifact_manifests import SECTIONS, missing_artifact_manifests, write_artifact_manifests
from shared.config import Config
from shared.errors import IntegrityError, MissingInput
from shared.manifest.artifact import read_artifact_manifest, write_artifact_manifest

KEYS = {"created_at", "model_name", "base_model", "training_config", "metrics", "size_mb", "huggingface_url"}


@pytest.fixture
def written(tmp_path):
    manifest = make_finished_run(tmp_path)
    write_artifact_manifests(tmp_path, manifest, Config())
    return manifest


def test_every_folder_has_the_keys_of_the_schema(written, tmp_path) -> None:
    for name in SECTIONS:
        document = json.loads((tmp_path / name / "manifest.json").read_bytes())
        assert set(document) == KEYS
        jsonschema.validate(document, schemas.document("artifact_manifest.v1.json"))
    assert not missing_artifact_manifests(tmp_path)


def test_values_are_those_of_the_run(written, tmp_path) -> None:
    models, features, logs = (read_artifact_manifest(tmp_path / name) for name in ("models", "features", "logs"))
    assert (models.model_name, models.base_model) == ("finished", "esm2_tiny (random-init(0))")
    assert (models.size_mb, features.size_mb) == (0.0027, 0.0062)
    assert (features.created_at, models.created_at, logs.created_at) == (moment(34), moment(124), moment(129))
    assert models.metrics["test"]["fmax_w/MF"] == 0.25
    assert "mae/val" not in models.metrics["val"]
    assert features.metrics["rows"] == {"features/train_embeds_esm2.npy": 40, "features/test_embeds_esm2.npy": 9}
    assert logs.metrics["lines"] == {"steps.jsonl": 2}
    assert logs.metrics["stage_seconds"]["stage_08_stacker"] == 90
    assert models.training_config["stacker"] == Config().stacker.model_dump(mode="json")


def test_the_size_does_not_count_the_manifest_itself(written, tmp_path) -> None:
    before = read_artifact_manifest(tmp_path / "models").size_mb
    write_artifact_manifests(tmp_path, written, Config())
    assert read_artifact_manifest(tmp_path / "models").size_mb == before


def test_an_address_is_kept_for_the_same_models_and_lost_with_others(written, tmp_path) -> None:
    folder = tmp_path / "models"
    published = read_artifact_manifest(folder).model_copy(update={"huggingface_url": "https://hub/me/model"})
    write_artifact_manifest(folder, published)
    write_artifact_manifests(tmp_path, written, Config())
    assert read_artifact_manifest(folder).huggingface_url == "https://hub/me/model"
    (folder / "stacker.pth").write_bytes(b"other")
    write_artifact_manifests(tmp_path, written, Config())
    assert read_artifact_manifest(folder).huggingface_url is None


def test_a_missing_or_damaged_one_is_named_and_written_anew(written, tmp_path) -> None:
    path = tmp_path / "logs/manifest.json"
    path.write_text('{"created_at": 3}')
    with pytest.raises(IntegrityError, match="artifact_manifest"):
        read_artifact_manifest(path.parent)
    path.unlink()
    assert missing_artifact_manifests(tmp_path)
    with pytest.raises(MissingInput):
        read_artifact_manifest(path.parent)
    write_artifact_manifests(tmp_path, written, Config())
    assert not missing_artifact_manifests(tmp_path)
