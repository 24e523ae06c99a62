"""How a Config comes about, each layer over the one before.

Defaults, the dataset entry, what the file extends, the file, `--preset`, the environment, `--set`, the overrides file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from shared.config.data import DataConfig
from shared.config.files import interpolate, merge, merge_preset, read_config_file, read_with_presets
from shared.config.root import Config
from shared.digests import digest_of
from shared.errors import ConfigError, UsageError

ENV_PREFIX = "GOWHY_CFG__"

# name, version, out folder -> the entry's defaults for `data.*` file keys
DatasetDefaults = Callable[[str, str, Path], Mapping[str, Path]]


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A config with the layers that made it; `raw` is what the user wrote, before any default."""

    config: Config
    raw: dict[str, Any]
    stem: str

    @property
    def run_id(self) -> str:
        """The run's name: the one given, or `<stem>-<first 12 hex of the digest>`."""
        return self.config.run_id or f"{self.stem}-{config_digest(self.config)[:12]}"


def config_digest(config: Config) -> str:
    """Digest of what the run is: without its name, its folders, its device and who else hears of its metrics.

    A registry entry is identified by its name and version; where its files lie does not matter.
    """
    values = config.model_dump(mode="json", exclude={"run_id", "paths", "device", "store", "logs", "pretrain"})
    if config.data.name != "files":
        values["data"] = {"name": config.data.name, "version": config.data.version}
    return digest_of("config", values)


def load_config(
    file: Path | None,
    *,
    environment: Mapping[str, str],
    preset: str | None = None,
    sets: Iterable[str] = (),
    overrides: Path | None = None,
    datasets: DatasetDefaults | None = None,
) -> LoadedConfig:
    """Resolve a config from all its layers.

    Args:
        file: YAML or JSON, maybe with presets (`extends`); None means defaults only.
        environment: usually `os.environ`.
        preset: a file of configs/presets by name, laid over the config file.
        sets: `a.b=value` strings; the value is YAML, `null` clears a key.
        overrides: JSON file of a sweep point, applied last.
        datasets: the dataset registry's defaults; None leaves `data.*` as written.

    Raises:
        ConfigError: an unknown key, a wrong value, a broken file.
        MissingInput: the file, or `GOWHY_DATA` where the file needs it, is not there.
    """
    raw: dict[str, Any] = {}
    if file is not None:
        merge(raw, read_with_presets(file, environment))
    if preset is not None:
        merge_preset(raw, preset, environment)
    merge(raw, from_environment(environment))
    for item in sets:
        merge(raw, from_assignment(item))
    if overrides is not None:
        merge(raw, interpolate(read_config_file(overrides), environment, where=str(overrides)))
    check_keys(raw, Config, where=str(file) if file else "configuration")
    config = validate(raw, where=str(file) if file else "configuration")
    if datasets is not None:
        config = apply_dataset(config, raw, datasets)
    refuse_future_annotations(config)
    return LoadedConfig(config, raw, file.stem if file else "run")


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Collect `GOWHY_CFG__SECTION__KEY` variables, and the two older names that are still read."""
    if "ARTEFACTS_DIR" in environment:
        raise ConfigError(
            "ARTEFACTS_DIR is not read",
            where="environment",
            remedy="Unset it; the folder is paths.out (GOWHY_CFG__PATHS__OUT)",
        )
    values: dict[str, Any] = {}
    if root := environment.get("WORK_ROOT"):
        merge(values, {"paths": {"work_root": root}})
    if dataset := environment.get("DATASET_ID"):
        merge(values, {"store": {"url": f"kaggle://{dataset}"}})
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split("__")
            merge(values, nest(keys, parse_value(environment[name], where=name)))
    return values


def from_assignment(item: str) -> dict[str, Any]:
    """Parse one `--set a.b=value`."""
    key, separator, text = item.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {item!r} is not KEY=VALUE", remedy="For example --set level1.cnn.epochs=5")
    return nest(key.strip().split("."), parse_value(text, where=f"--set {key}"))


def parse_value(text: str, *, where: str) -> Any:
    """A YAML scalar or flow value; `null` clears."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} is not a YAML value: {error}", where=where) from error


def nest(keys: list[str], value: Any) -> dict[str, Any]:
    """`[a, b], v` -> `{a: {b: v}}`."""
    for key in reversed(keys):
        value = {key: value}
    result: dict[str, Any] = value
    return result


def check_keys(values: Mapping[str, Any], model: type[BaseModel], *, where: str, prefix: str = "") -> None:
    """Refuse an unknown key and name the nearest known one.

    Raises:
        ConfigError: a key is not in the model.
    """
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            known = [f"{prefix}{name}" for name in model.model_fields]
            near = difflib.get_close_matches(f"{prefix}{key}", [*known, *all_keys(Config)], n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}"
            raise ConfigError(f"unknown key {prefix}{key}", where=where, remedy=hint)
        section = section_of(field.annotation)
        if section is not None and isinstance(value, Mapping):
            check_keys(value, section, where=where, prefix=f"{prefix}{key}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class in a field's annotation, also inside `X | None`."""
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of the config, for suggestions and documentation."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        section = section_of(field.annotation)
        if section is not None:
            keys.extend(all_keys(section, f"{prefix}{name}."))
    return keys


def validate(values: Mapping[str, Any], *, where: str) -> Config:
    """Build the Config; pydantic's complaints become one ConfigError that names every key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item.get('input')!r})" for item in error.errors()
        )
        raise ConfigError(problems, where=where, remedy="See schema/config.schema.json for every key") from error


def apply_dataset(config: Config, raw: Mapping[str, Any], datasets: DatasetDefaults) -> Config:
    """Fill unset `data.*` files from the registry; a file that the user named wins and makes it `files`."""
    named = dict(raw.get("data") or {})
    explicit = {key for key in DataConfig.input_files() if key in named}
    defaults = datasets(config.data.name, config.data.version, config.paths.out)
    filled = {key: path for key, path in defaults.items() if key not in explicit}
    name = "files" if explicit and config.data.name != "files" else config.data.name
    data = config.data.model_copy(update={**filled, "name": name})
    return config.model_copy(update={"data": data})


def refuse_future_annotations(config: Config) -> None:
    """A GAF file beside a test truth needs a date, or annotations made after the labels were hidden leak them.

    Raises:
        ConfigError: the date is missing.
    """
    if config.data.gaf is not None and config.data.test_terms is not None and config.goa.frozen_at is None:
        raise ConfigError(
            "data.gaf and data.test_terms are given without a date: newer annotations would leak the test labels",
            where="goa.frozen_at",
            remedy="Set the last day of the train labels, for example --set goa.frozen_at=2021-05-01",
        )


def resolve_input(path: Path, config: Config) -> Path:
    """Where an input file really is: relative paths are under `paths.work_root`."""
    root = config.paths.work_root
    return path if path.is_absolute() or root is None else root / path
