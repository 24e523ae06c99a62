"""Where weights come from: a folder, a file, a download, or a seed. Nothing here can run a pickle's code."""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from shared.config.embed import RANDOM_INIT
from shared.digests import digest_of, sha256_bytes, sha256_file
from shared.errors import ConfigError, DataError, IntegrityError, MissingInput, ServiceUnavailable, from_os_error
from shared.nn.encoders.base import Network

# In a folder the first kind that is there is read; the later ones hold the same weights.
PATTERNS = ("*.safetensors", "pytorch_model*.bin", "*.pt")
SHIPPED = Path(__file__).parent / "shipped"  # a folder for each encoder that the project trained itself
DOWNLOAD = ("*.safetensors", "pytorch_model*.bin", "*.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a network's weights are from, as the user wrote it, and their sha256.

    The sha256 is that of the file; of several files, the digest of their names and sha256; of random
    weights, the digest of the tensors.
    """

    label: str
    sha256: str


def load_weights(
    network: Network, source: str, hub: str | None, sha256: str | None = None, *, name: str = ""
) -> Weights:
    """Fill a network's parameters.

    Args:
        network: its parameters are overwritten.
        source: `random-init(SEED)`, `shipped`, `hub`, or a local folder or file.
        hub: the repository that `hub` means; None where the architecture was never published.
        sha256: what the weights' digest must be; None accepts any.
        name: the encoder's, for `shipped`.

    Raises:
        ConfigError: `hub` for an architecture that was never published, `shipped` for one that is not shipped.
        MissingInput: no such path, or no weights in it.
        ServiceUnavailable: the download failed.
        DataError: a file is not a checkpoint.
        IntegrityError: another digest, or weights of another architecture.
    """
    if seed := RANDOM_INIT.fullmatch(source):
        fill_random(network, int(seed[1]))
        weights = Weights(source, tensors_digest(network))
        check_digest(weights, sha256)
        return weights
    label, path = located(source, hub, name)
    files = weight_files(path)
    weights = Weights(label, files_digest(files))
    # Before the first tensor is read: a file that is not the expected one is not parsed.
    check_digest(weights, sha256)
    check_folder(network, path if path.is_dir() else path.parent)
    fill(network, files)
    return weights


def located(source: str, hub: str | None, name: str) -> tuple[str, Path]:
    """What weights are called in records, and where they are here."""
    if source == "hub":
        return f"hub:{hub}", download(hub)
    if source == "shipped":
        if not (SHIPPED / name).is_dir():
            known = sorted(folder.name for folder in SHIPPED.glob("*/"))
            raise ConfigError(
                f"no weights of {name} are shipped",
                where="weights: shipped",
                remedy=f"Shipped: {', '.join(known) or 'none'}; or use random-init(SEED), hub or a local folder",
            )
        return f"shipped:{name}", SHIPPED / name
    return source, Path(source)


def check_digest(weights: Weights, expected: str | None) -> None:
    """Compare with the sha256 that the config or a record gives.

    Raises:
        IntegrityError: they differ.
    """
    if expected is not None and weights.sha256 != expected:
        raise IntegrityError(
            f"the weights' sha256 is {weights.sha256}, expected {expected}",
            where=weights.label,
            remedy="Give the weights that the digest was made of, or correct sha256 in the encoder's config",
        )


def fill_random(network: Network, seed: int) -> None:
    """Draw every parameter from a generator of its own, keyed by seed and name.

    numpy's generator, because torch's normal numbers depend on the processor's vector width. The
    global generators are untouched.
    """
    for name, parameter in network.module.named_parameters():
        std = network.initial_std(name)
        if std is None:
            parameter.data.fill_(0.0 if name.endswith(".bias") else 1.0)
            continue
        generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        values = generator.standard_normal(tuple(parameter.shape), np.float32) * np.float32(std)
        parameter.data.copy_(torch.from_numpy(values))


def tensors_digest(network: Network) -> str:
    """Digest of names, shapes and float32 bytes of all parameters."""
    parameters = sorted(network.module.named_parameters())
    return digest_of(
        "tensors",
        [[name, list(p.shape), sha256_bytes(p.detach().cpu().float().numpy().tobytes())] for name, p in parameters],
    )


def download(hub: str | None) -> Path:
    """Fetch a published checkpoint; the download client keeps and verifies its own cache.

    Raises:
        ConfigError: there is nothing to download.
        ServiceUnavailable: the network or the repository did not answer.
    """
    if hub is None:
        raise ConfigError(
            "this encoder has no published weights",
            where="weights: hub",
            remedy="Use random-init(SEED) or a local folder",
        )
    try:
        return Path(huggingface_hub.snapshot_download(hub, allow_patterns=list(DOWNLOAD)))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ServiceUnavailable(
            f"cannot download {hub}: {reason}",
            where="weights: hub",
            remedy="Download it where the network allows, and give the folder as the encoder's weights",
        ) from error


def weight_files(path: Path) -> list[Path]:
    """The checkpoint file, or a folder's files of the first kind that it has, sorted.

    Raises:
        MissingInput: nothing there.
    """
    if path.is_file():
        return [path]
    for pattern in PATTERNS:
        if files := sorted(path.glob(pattern)):
            return files
    what = "no weights in the folder" if path.is_dir() else "no such file or folder"
    raise MissingInput(
        what,
        where=str(path),
        remedy=f"Give a file, or a folder with one of {', '.join(PATTERNS)}, or random-init(SEED)",
    )


def files_digest(files: list[Path]) -> str:
    """sha256 of one file; of several, the digest of their names and sha256."""
    if len(files) == 1:
        return sha256_file(files[0])
    return digest_of("weight files", [[file.name, sha256_file(file)] for file in files])


def check_folder(network: Network, folder: Path) -> None:
    """Compare config.json, where there is one, with the architecture.

    Raises:
        IntegrityError: they differ.
        DataError: it is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from error
    if wrong := network.check_config(config):
        raise _other_architecture(network, wrong, path)


def fill(network: Network, files: list[Path]) -> None:
    """Copy a checkpoint's tensors into the parameters, one at a time.

    Raises:
        DataError: a file is not a checkpoint.
        IntegrityError: a tensor is missing, unknown, or of another shape.
    """
    parameters = dict(network.module.named_parameters())
    filled: set[str] = set()
    for file in files:
        for key, tensor in read_tensors(file):
            name = network.parameter_name(key)
            if name is None:
                continue
            if name not in parameters:
                raise _other_architecture(network, f"it has no place for the tensor {key}", file)
            if parameters[name].shape != tensor.shape:
                raise _other_architecture(
                    network, f"{key} is {list(tensor.shape)}, not {list(parameters[name].shape)}", file
                )
            parameters[name].data.copy_(tensor)
            filled.add(name)
    if missing := sorted(parameters.keys() - filled):
        raise _other_architecture(network, f"{len(missing)} tensors are missing, first {missing[0]}", files[0])


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors by name: safetensors, a transformers .bin or a fair-esm .pt.

    Raises:
        DataError: it is none of these, or holds anything but tensors and plain values.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for key in sorted(opened.keys()):
                    yield key, opened.get_tensor(key)
            return
        # fair-esm keeps its command line beside the tensors; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise from_os_error(error, str(file)) from error
    except Exception as error:  # a parser may raise anything on a damaged file
        raise DataError(
            f"not a checkpoint that can be read safely: {type(error).__name__}: {str(error).partition('.')[0]}",
            where=str(file),
            remedy="Give a safetensors file",
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise DataError("not a checkpoint: it holds no tensors by name", where=str(file))
    yield from ((key, state[key]) for key in sorted(state) if isinstance(state[key], Tensor))


def _other_architecture(network: Network, what: str, file: Path) -> IntegrityError:
    return IntegrityError(
        f"not the weights of {network.shape.describe()}: {what}",
        where=str(file),
        remedy="Choose the encoder name that these weights belong to; see shared.nn.encoders.ENCODERS",
    )
