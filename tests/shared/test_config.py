from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import schema.__main__ as schemas
from shared.config import Config
from shared.config.load import all_keys, config_digest, load_config, merge
from shared.errors import ConfigError, GowhyError, MissingInput, UsageError
from shared.nn.encoders import ENCODERS

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
PRESETS = sorted((REPOSITORY / "configs/models").glob("*.yaml"))


def load(tmp_path: Path, text: str = "", name: str = "c.yaml", environment: dict[str, str] | None = None, **more):
    file = tmp_path / name
    file.write_text(text)
    return load_config(file, environment=environment or {}, **more)


def test_a_preset_lies_over_the_file_and_below_the_environment(tmp_path) -> None:
    text = "embed: {t5: null}\nstacker: {epochs: 5, dropout: 0.3}"
    plain, fast = load(tmp_path, text).config, load(tmp_path, text, preset="fast").config
    assert (fast.stacker.epochs, fast.stacker.dropout) == (2, plain.stacker.dropout)
    assert "cnn" not in fast.level1.models
    assert fast.embed.esm2.dtype == "bfloat16"
    assert fast.embed.t5 is None, "what the file switches off stays off"
    assert load(tmp_path, text, preset="default").config == plain
    environment = {"GOWHY_CFG__STACKER__EPOCHS": "4"}
    assert load(tmp_path, text, environment=environment, preset="fast").config.stacker.epochs == 4
    with pytest.raises(ConfigError, match="no preset 'slow'") as refused:
        load(tmp_path, preset="slow")
    assert "default, fast, full" in str(refused.value)


def test_each_layer_wins_over_the_one_below(tmp_path) -> None:
    overrides = tmp_path / "o.json"
    overrides.write_text('{"stacker": {"layers": 5}}')
    environment = {
        "GOWHY_CFG__STACKER__LAYERS": "3",
        "GOWHY_CFG__STACKER__HIDDEN": "48",
        "GOWHY_CFG__STACKER__EPOCHS": "3",
    }
    loaded = load(
        tmp_path,
        "stacker: {layers: 2, hidden: 32, epochs: 2, dropout: 0.2}",
        environment=environment,
        sets=["stacker.layers=4", "stacker.hidden=64"],
        overrides=overrides,
    )
    stacker = loaded.config.stacker
    assert (stacker.layers, stacker.hidden, stacker.epochs, stacker.dropout) == (5, 64, 3, 0.2)
    assert loaded.raw == {"stacker": {"layers": 5, "hidden": 64, "epochs": 3, "dropout": 0.2}}


def test_null_clears(tmp_path) -> None:
    loaded = load(tmp_path, "run_id: mine\nembed: {t5: {name: prott5_tiny}}", sets=["run_id=null", "embed.t5=null"])
    assert loaded.config.run_id is None
    assert loaded.config.embed.t5 is None


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("stackr: {}", "stacker"),
        ("stacker: {layer: 2}", "stacker.layers"),
        ("level1: {cnn: {epoch: 1}}", "level1.cnn.epochs"),
        ("zzzzzzz: 1", "Known here"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path, text, near) -> None:
    with pytest.raises(ConfigError, match=near) as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("stacker: {layers: two}", ConfigError),
        ("split: {folds: 1}", ConfigError),
        ("a: [", ConfigError),
        ("- 1", ConfigError),
        ("data: {obo: '${HOME}/x'}", ConfigError),
        ("data: {obo: '${GOWHY_DATA}/x'}", MissingInput),
        ("run_id: ../x", ConfigError),
        ("device: tpu", ConfigError),
    ],
)
def test_wrong_values_are_named(tmp_path, text, error) -> None:
    with pytest.raises(error):
        load(tmp_path, text)


def test_missing_file_and_broken_assignment(tmp_path) -> None:
    with pytest.raises(MissingInput):
        load_config(tmp_path / "none.yaml", environment={})
    with pytest.raises(UsageError):
        load(tmp_path, sets=["stacker.layers"])


def test_older_environment_names(tmp_path) -> None:
    config = load(tmp_path, environment={"WORK_ROOT": "/w", "DATASET_ID": "me/data"}).config
    assert config.paths.work_root == Path("/w")
    assert config.store.url == "kaggle://me/data"
    with pytest.raises(ConfigError, match=r"paths\.out"):
        load(tmp_path, environment={"ARTEFACTS_DIR": "x"})


def test_dataset_defaults_fill_and_an_explicit_file_makes_it_files(tmp_path) -> None:
    def defaults(name, version, out):
        return {"obo": Path("registry.obo"), "ia": Path("registry.ia")} if name == "tiny" else {}

    plain = load(tmp_path, "data: {name: tiny}", datasets=defaults).config.data
    assert (plain.name, plain.obo) == ("tiny", Path("registry.obo"))
    mine = load(tmp_path, "data: {name: tiny, obo: mine.obo}", datasets=defaults).config.data
    assert (mine.name, mine.obo, mine.ia) == ("files", Path("mine.obo"), Path("registry.ia"))
    none = load(tmp_path, "data: {name: tiny, ia: null}", datasets=defaults).config.data
    assert (none.name, none.ia) == ("files", None)


def test_run_id_depends_on_what_the_run_is_and_on_nothing_else(tmp_path) -> None:
    base = load(tmp_path, "data: {name: tiny}")
    assert base.run_id == f"c-{config_digest(base.config)[:12]}"
    for same in ("device=cpu", "paths.out=elsewhere", "store.url=memory://", "logs.project=other"):
        assert load(tmp_path, "data: {name: tiny}", sets=[same]).run_id == base.run_id
    for other in ("stacker.layers=7", 'data.version="2"', "threads=1"):
        assert load(tmp_path, "data: {name: tiny}", sets=[other]).run_id != base.run_id
    assert load(tmp_path, "data: {name: tiny}", sets=["run_id=mine"]).run_id == "mine"


def test_presets_are_laid_below_the_file_in_their_order(tmp_path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/base.yaml").write_text("stacker: {layers: 1, hidden: 32, epochs: 1}")
    (tmp_path / "models/a.yaml").write_text("extends: base.yaml\nstacker: {layers: 2, epochs: 2}")
    (tmp_path / "models/b.yaml").write_text("stacker: {epochs: 3}")
    loaded = load(tmp_path, "extends: [models/a.yaml, models/b.yaml]\nstacker: {dropout: 0.3}")
    stacker = loaded.config.stacker
    assert (stacker.layers, stacker.hidden, stacker.epochs, stacker.dropout) == (2, 32, 3, 0.3)
    assert loaded.raw == {"stacker": {"layers": 2, "hidden": 32, "epochs": 3, "dropout": 0.3}}
    same = load(tmp_path, "stacker: {layers: 2, hidden: 32, epochs: 3, dropout: 0.3}", name="d.yaml")
    assert config_digest(loaded.config) == config_digest(same.config)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("extends: none.yaml", MissingInput),
        ("extends: c.yaml", ConfigError),
        ("extends: 3", ConfigError),
        ("extends: [1]", ConfigError),
        ("extends: circle.yaml", ConfigError),
        ("stacker: {extends: x.yaml}", ConfigError),
    ],
)
def test_a_preset_that_cannot_be_laid_below_is_named(tmp_path, text, error) -> None:
    (tmp_path / "circle.yaml").write_text("extends: c.yaml")
    with pytest.raises(error):
        load(tmp_path, text)


def test_every_preset_is_used_or_shown() -> None:
    text = "".join(path.read_text() for path in CONFIGS) + (REPOSITORY / "docs/artifacts.md").read_text()
    assert PRESETS
    assert [path.name for path in PRESETS if path.name not in text] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_validates_both_ways(path, tmp_path) -> None:
    loaded = load_config(path, environment={"GOWHY_DATA": str(tmp_path)})
    for encoder in (loaded.config.embed.t5, loaded.config.embed.esm2):
        assert encoder is None or encoder.name in ENCODERS
    document = schemas.document("config.schema.json")
    jsonschema.validate(loaded.raw, document)
    jsonschema.validate(yaml.safe_load(path.read_text()), document)
    jsonschema.validate(loaded.config.model_dump(mode="json"), document)


@given(
    st.dictionaries(
        st.sampled_from(all_keys(Config)), st.sampled_from([1, 0, -1, "x", None, True, 0.5, []]), max_size=4
    )
)
def test_any_assignment_is_accepted_or_refused_cleanly(values) -> None:
    try:
        loaded = load_config(None, environment={}, sets=[f"{key}={json.dumps(value)}" for key, value in values.items()])
    except GowhyError as error:
        assert error.exit_code == 78
    else:
        assert Config.model_validate_json(loaded.config.model_dump_json()) == loaded.config


def test_merge_keeps_what_the_layer_does_not_name() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 1}
    merge(base, {"a": {"b": 3}})
    assert base == {"a": {"b": 3, "c": 2}, "d": 1}


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().threads = 4


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_committed_schemas_have_not_drifted(name) -> None:
    committed = (schemas.FOLDER / name).read_text()
    assert committed == schemas.render(name), "run `make schema` and commit the difference"
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))
