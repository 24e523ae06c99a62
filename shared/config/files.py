"""Config files: YAML or JSON mappings, each of which may build on others.

`extends: models/esm2_t33_650M.yaml`, or a list of such paths, relative to the file that says so: they
are read first, in order, and the file's own keys win.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.errors import ConfigError, MissingInput

EXTENDS = "extends"
PRESETS = Path(__file__).resolve().parents[2] / "configs" / "presets"
_INTERPOLATION = re.compile(r"\$\{([^}]*)\}")


def read_with_presets(path: Path, environment: Mapping[str, str], below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A config file laid over the files that it extends; `${GOWHY_DATA}` replaced.

    Args:
        path: the file.
        environment: usually `os.environ`.
        below: the files that led here, which may not be extended again.

    Raises:
        ConfigError: a file that cannot be parsed, or that extends itself.
        MissingInput: a file, or `GOWHY_DATA` where one needs it, is not there.
    """
    own = interpolate(read_config_file(path), environment, where=str(path))
    named = own.pop(EXTENDS, [])
    bases = [named] if isinstance(named, str) else named
    if not isinstance(bases, list) or not all(isinstance(name, str) for name in bases):
        raise ConfigError(f"extends: {named!r} is not a path or a list of paths", where=str(path))
    chain = (*below, path.resolve())
    values: dict[str, Any] = {}
    for name in bases:
        base = path.parent / name
        if base.resolve() in chain:
            raise ConfigError(f"{name} extends itself", where=str(path), remedy="Break the circle of extends")
        if not base.is_file():
            raise MissingInput(f"no preset {base}", where=f"{path}: extends", remedy="See configs/models/")
        merge(values, read_with_presets(base, environment, chain))
    merge(values, own)
    return values


def preset_names() -> list[str]:
    """What `--preset` takes: a file of configs/presets each."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def merge_preset(values: dict[str, Any], name: str, environment: Mapping[str, str]) -> None:
    """Lay a preset over a config in place; a section that the config switches off stays off.

    Raises:
        ConfigError: no such preset.
    """
    if name not in preset_names():
        raise ConfigError(f"no preset {name!r}", where="--preset", remedy=f"One of {', '.join(preset_names())}")
    layer = read_with_presets(PRESETS / f"{name}.yaml", environment)
    merge(values, _without_what_is_off(layer, values))


def _without_what_is_off(layer: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in layer.items():
        own = values.get(key, {})
        if own is not None:
            inside = isinstance(value, Mapping) and isinstance(own, Mapping)
            kept[key] = _without_what_is_off(value, own) if inside else value
    return kept


def read_config_file(path: Path) -> dict[str, Any]:
    """Parse a YAML or JSON mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingInput(f"no config file {path}", remedy="See configs/ for examples") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read: {error}", where=str(path)) from error
    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"not valid {path.suffix or 'YAML'}: {error}", where=str(path)) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("a config is a mapping of sections", where=str(path))
    return value


def interpolate(value: Any, environment: Mapping[str, str], *, where: str) -> Any:
    """Replace `${GOWHY_DATA}` in every string; any other name is refused."""
    if isinstance(value, dict):
        return {key: interpolate(item, environment, where=where) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environment, where=where) for item in value]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        if match[1] != "GOWHY_DATA":
            raise ConfigError(f"${{{match[1]}}} cannot be interpolated", where=where, remedy="Only ${GOWHY_DATA} can")
        try:
            return environment["GOWHY_DATA"]
        except KeyError:
            raise MissingInput(
                "GOWHY_DATA is not set", where=where, remedy="Export GOWHY_DATA=<folder with the data>"
            ) from None

    return _INTERPOLATION.sub(substitute, value)


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay `layer` over `base` in place: mappings merge, everything else replaces."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
