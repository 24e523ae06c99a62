"""A level-1 model that a run has fitted is not fitted again for the same inputs and settings.

A stage's fingerprint holds all settings of all models, so that adding one model, or a sweep over one model's
settings, would fit the others again. What one model was fitted with is in its record; where that, the stage's inputs
and the bytes of its files agree, the files are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.train.earlier import Earlier
from services.train.models.registry import MODELS
from services.train.models.saved import record_path, weights_path
from services.train.stage import StageContext
from shared.artefacts import JSON
from shared.config import Level1Config
from shared.config.base import Section
from shared.errors import GowhyError
from shared.models.features import MODALITIES, Features

COMMON = "training"  # the section that every model may read


def model_outputs(name: str) -> tuple[str, ...]:
    """The artefacts of one model: out-of-fold and test logits, arrays, record."""
    return (f"features/oof_{name}.npy", f"features/test_pred_{name}.npy", weights_path(name), record_path(name))


def own_config(config: Level1Config, name: str) -> Level1Config:
    """The settings with None for every section that the model does not declare: what is not hashed cannot be read."""
    return config.model_copy(update=dict.fromkeys(_unread(config, name)))


def own_features(features: Features, name: str) -> Features:
    """The proteins with no other dense modality than the model declares."""
    declared = MODELS[name].modalities
    return replace(features, dense={key: array for key, array in features.dense.items() if key in declared})


def fitted_with(config: Level1Config, name: str) -> dict[str, Any]:
    """Every value of `level1` that may change the model, as its record holds it."""
    left_out = {"models", *_unread(config, name)}
    return {key: value for key, value in config.fingerprint_values().items() if key not in left_out}


def take_over(ctx: StageContext, config: Level1Config, name: str) -> bool:
    """Copy the model's files from a run that has fitted it; False where there is none, and it is to be fitted."""
    for earlier in ctx.earlier():
        if (
            inputs_of(earlier.inputs, name) == inputs_of(ctx.digests, name)
            and _recorded(earlier, name) == fitted_with(config, name)
            and all(earlier.copy(path, ctx.output(path)) for path in model_outputs(name))
        ):
            ctx.taken.append(name)
            ctx.log.event(
                f"  {name}: as run {earlier.run_folder.name} has it, fitted on the same with the same settings"
            )
            return True
    return False


def inputs_of(digests: Mapping[str, str], name: str) -> dict[str, str]:
    """Those of the stage's inputs that the model reads; its settings are in its record."""
    unread = set(MODALITIES) - set(MODELS[name].modalities)
    paths = {f"features/{which}_embeds_{modality}.npy" for which in ("train", "test") for modality in unread}
    return {key: digest for key, digest in digests.items() if key not in paths and key != "config:level1"}


def _recorded(earlier: Earlier, name: str) -> Any:
    try:
        return JSON.read(earlier.run_folder / record_path(name))["settings"]
    except (OSError, ValueError, KeyError, TypeError, GowhyError):
        return None  # no such model, or a record of another form


def _unread(config: Level1Config, name: str) -> list[str]:
    sections = [key for key, value in config if isinstance(value, Section)]
    return [key for key in sections if key not in (COMMON, *MODELS[name].sections)]
