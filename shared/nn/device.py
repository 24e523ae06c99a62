"""Which device computes."""

from __future__ import annotations

import torch

from shared.errors import MissingInput


def resolve_device(device: str) -> torch.device:
    """Turn the config's `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

    `auto` is the first GPU where there is one, else the CPU.

    Raises:
        MissingInput: a GPU was named that this machine, or this build of torch, does not have.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        has = (
            f"this machine has {count} usable GPUs"
            if torch.version.cuda
            else f"torch {torch.__version__} is a CPU build"
        )
        raise MissingInput(
            f"no device {device}: {has}", where="device", remedy="Use --set device=auto or --set device=cpu"
        )
    return torch.device("cuda", index)
