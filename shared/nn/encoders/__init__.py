"""Sequence encoders by name, and the one way to load them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shared.config.embed import EncoderConfig
from shared.errors import ConfigError, IntegrityError, MissingInput
from shared.nn.device import resolve_device
from shared.nn.encoders.base import POOLING_VERSION, Encoder, Network
from shared.nn.encoders.encoder import TransformerEncoder
from shared.nn.encoders.esm2 import Esm2Network, Esm2Shape
from shared.nn.encoders.prott5 import T5Network, T5Shape
from shared.nn.encoders.weights import load_weights

__all__ = ["ENCODERS", "Architecture", "Encoder", "architecture", "encoder_config", "load_encoder"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One registry entry: a family with its hyperparameters, and where its weights are published."""

    shape: Esm2Shape | T5Shape
    hub: str | None = None

    def build(self) -> Network:
        """The network, its weights not yet loaded."""
        return Esm2Network(self.shape) if isinstance(self.shape, Esm2Shape) else T5Network(self.shape)


# The tiny ones are for tests, demos and machines without weights: real architectures, nothing learned.
ENCODERS: dict[str, Architecture] = {
    "esm2_tiny": Architecture(Esm2Shape(layers=4, dim=64, heads=4)),
    # For `pretrain`: what two cores train within an hour.
    "esm2_small": Architecture(Esm2Shape(layers=4, dim=192, heads=6)),
    "esm2_t6_8M": Architecture(Esm2Shape(layers=6, dim=320, heads=20), "facebook/esm2_t6_8M_UR50D"),
    "esm2_t12_35M": Architecture(Esm2Shape(layers=12, dim=480, heads=20), "facebook/esm2_t12_35M_UR50D"),
    "esm2_t30_150M": Architecture(Esm2Shape(layers=30, dim=640, heads=20), "facebook/esm2_t30_150M_UR50D"),
    "esm2_t33_650M": Architecture(Esm2Shape(layers=33, dim=1280, heads=20), "facebook/esm2_t33_650M_UR50D"),
    "esm2_t36_3B": Architecture(Esm2Shape(layers=36, dim=2560, heads=40), "facebook/esm2_t36_3B_UR50D"),
    "prott5_tiny": Architecture(T5Shape(layers=4, dim=64, heads=4, head_dim=16, feed_forward=256)),
    "prott5_xl": Architecture(
        T5Shape(layers=24, dim=1024, heads=32, head_dim=128, feed_forward=16384), "Rostlab/prot_t5_xl_half_uniref50-enc"
    ),
}


def architecture(config: EncoderConfig) -> Architecture:
    """The registry's entry of a config.

    Raises:
        ConfigError: an unknown name.
    """
    found = ENCODERS.get(config.name)
    if found is None:
        near = difflib.get_close_matches(config.name, ENCODERS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(ENCODERS)}"
        raise ConfigError(f"no encoder {config.name!r}", where="embed", remedy=hint)
    return found


def load_encoder(
    config: EncoderConfig | Mapping[str, Any], device: str = "auto", weights: str | None = None
) -> Encoder:
    """Build an encoder and load its weights.

    Args:
        config: the config's section, or the record that `Encoder.describe` made; a record's sha256 must match.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: overrides where the weights are, for a record that was made on another machine.

    Raises:
        ConfigError: an unknown name.
        MissingInput: the weights, or the device, are not there.
        ServiceUnavailable: a download failed.
        IntegrityError: the weights are not those of the record or of the architecture.
    """
    if not isinstance(config, EncoderConfig):
        config = encoder_config(config)
    found = architecture(config)
    where = resolve_device(device)
    network = found.build()
    loaded = load_weights(network, weights or config.weights, found.hub, config.sha256, name=config.name)
    return TransformerEncoder(config, network, loaded, where)


def encoder_config(record: Mapping[str, Any]) -> EncoderConfig:
    """Turn a record such as `features/encoder_esm2.json` back into a config that insists on the same weights.

    Raises:
        MissingInput: the record says that the modality is absent.
        IntegrityError: not such a record, or one of another pooling.
    """
    if record.get("absent"):
        raise MissingInput(
            "the run has no such embedding", where="encoder record", remedy="Set the encoder in embed and run again"
        )
    try:
        options = record["options"]
        if options["pooling"] != POOLING_VERSION:
            raise IntegrityError(
                f"pooling {options['pooling']} is not what this version computes ({POOLING_VERSION})",
                where="encoder record",
            )
        source = str(record["weights"])
        return EncoderConfig(
            name=record["name"],
            weights=source.partition(":")[0] if source.startswith(("hub:", "shipped:")) else source,
            sha256=record["weights_sha256"],
            window=options["window"],
            overlap=options["overlap"],
            dtype=options.get("dtype", "float32"),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise IntegrityError(f"not an encoder record: {error!r}", where="encoder record") from error
