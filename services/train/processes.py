"""Several processes that torchrun started, as one team: Accelerate on gloo (CPU) or nccl (GPU).

Batches of a step are dealt in turn, and gradients and losses are summed, so that the numbers are those of one process
with the same `accumulate`; see docs/performance.md for how equal. What crosses are tensors: nothing is pickled.

A process that ends takes the others with it: whoever waits for it is told by its closed connection, and torchrun stops
whoever does not wait. Where torchrun itself is killed, the kernel stops all.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn

from services.train.team import ALONE, Team, started_by_torchrun
from shared.errors import ConfigError, IntegrityError, MissingInput, TryAgain
from shared.nn.device import resolve_device

CALL_PATIENCE = datetime.timedelta(days=30)  # followers wait as long as the leader's other stages take
PATIENCE = datetime.timedelta(days=1)  # as long as one process prepares a fit that another is ready for
CALL_BYTES = 512
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Processes(Team):
    """See `Team`; tensors to be summed go through the device's backend, calls always through gloo."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calls: Any = None  # the process group of calls: it may wait for days, and does not occupy a GPU while it does

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """See `Team`."""
        summed: npt.NDArray[np.float64] = self._sum(torch.from_numpy(values).to(self.device)).cpu().numpy()
        return summed

    def sum_gradients(self, module: nn.Module) -> None:
        """See `Team`; one message. A parameter that no process's batches used keeps no gradient, as alone."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        used = [0.0 if parameter.grad is None else 1.0 for parameter in parameters]
        with torch.no_grad():
            own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flags = torch.tensor(used, device=self.device)
            summed = self._sum(torch.cat([flags, *(gradient.reshape(-1) for gradient in own)]))
            parts = torch.split(summed[len(parameters) :], [parameter.numel() for parameter in parameters])
            anywhere = summed[: len(parameters)].tolist()
            for parameter, gradient, part, users in zip(parameters, own, parts, anywhere, strict=True):
                if users:
                    parameter.grad = gradient.copy_(part.view_as(gradient))

    def same_start(self, module: nn.Module) -> None:
        """See `Team`."""
        from accelerate.utils import broadcast  # noqa: PLC0415 - needed by several processes only

        for tensor in _tensors(module).values():
            with _together():
                sent = broadcast(_bytes(tensor))
            tensor.copy_(sent.view(tensor.dtype).view_as(tensor))

    def check_same_end(self, module: nn.Module, model: str) -> None:
        """See `Team`."""
        digest = hashlib.sha256()
        for tensor in _tensors(module).values():
            digest.update(_bytes(tensor).cpu().numpy().data)
        own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        with _together():
            distributed.all_gather(everyone, own, group=self.calls)
        differing = [rank for rank, other in enumerate(everyone) if not torch.equal(other, everyone[0])]
        if differing:
            raise IntegrityError(
                f"process {differing[0]} ended the fit of {model} with other weights than process 0",
                where="torchrun",
                remedy="Use machines and GPUs of one kind, or start one process",
            )

    def call(self, stage: str, job: str) -> None:
        """See `Team`."""
        self._say(f"{stage}\n{job}")

    def heard(self) -> tuple[str, str] | None:
        """See `Team`."""
        message = torch.zeros(CALL_BYTES, dtype=torch.uint8)
        with _together():
            distributed.broadcast(message, 0, group=self.calls)
        stage, _, job = bytes(message.tolist()).rstrip(b"\0").decode().partition("\n")
        return (stage, job) if stage else None

    def dismiss(self) -> None:
        """See `Team`."""
        self._say("")

    def _say(self, text: str) -> None:
        message = torch.tensor(list(text.encode().ljust(CALL_BYTES, b"\0")), dtype=torch.uint8)
        with _together():
            distributed.broadcast(message, 0, group=self.calls)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        from accelerate.utils import reduce  # noqa: PLC0415 - needed by several processes only

        with _together():
            summed: torch.Tensor = reduce(values, reduction="sum")
        return summed


@contextlib.contextmanager
def assembled(
    device: str, accumulate: int, environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[Team, torch.device]]:
    """The team of this process and the device that it computes on; `ALONE` unless torchrun started several.

    A follower ends at once on SIGTERM and SIGINT, and so does the leader before it leads: there is nothing to put in
    order, and they may be waiting where Python does not see signals.

    Args:
        device: the config's `device`.
        accumulate: the config's batches per optimiser step, which the processes share.
        environment: as torchrun made it.

    Raises:
        ConfigError: `accumulate` cannot be dealt evenly, or `device` names one GPU for all.
        MissingInput: Accelerate is not installed, or there are fewer GPUs than processes.
        TryAgain: another process ended.
    """
    size = started_by_torchrun(environment)
    if size == 1:
        yield ALONE, resolve_device(device)
        return
    rank, local = int(environment["RANK"]), int(environment["LOCAL_RANK"])
    if accumulate % size:
        raise ConfigError(
            f"{accumulate} batches per step cannot be dealt evenly to {size} processes",
            where="level1.training.accumulate",
            remedy=f"Use --set level1.training.accumulate={-(-accumulate // size) * size}, or start another number "
            "of processes",
        )
    place = device_of(device, local)
    try:
        from accelerate import PartialState  # noqa: PLC0415 - needed by several processes only
    except ImportError as error:
        raise MissingInput(
            "Accelerate is not installed, which several processes need",
            where="torchrun",
            remedy="Install envs/pip/train.txt (make setup), or start without torchrun",
        ) from error
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    end_with_torchrun()
    with _together():
        cpu = place.type == "cpu"
        state = PartialState(cpu=cpu, backend="gloo" if cpu else "nccl", timeout=PATIENCE)
        team = Processes(rank, size, local, place, distributed.new_group(backend="gloo", timeout=CALL_PATIENCE))
    if team.leads:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield team, place
        if team.leads:
            team.dismiss()
    except BaseException:
        if cpu:  # gloo lets go at once, and may abort where Python has ended first; nccl may wait for who is lost
            state.destroy_process_group()
        raise
    state.destroy_process_group()


def end_with_torchrun() -> None:
    """Have this process sent SIGTERM when torchrun dies without a word: its children would wait for each other."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died in between
        raise TryAgain("torchrun ended", where="torchrun", remedy="Run the same command again to resume")


def device_of(device: str, local: int) -> torch.device:
    """The device of the machine's process `local`: a GPU each, or the CPU for all.

    Raises:
        ConfigError: `device` names one GPU for all.
        MissingInput: there are fewer GPUs than processes.
    """
    if ":" in device:
        raise ConfigError(
            f"{device} is one GPU, and torchrun started several processes",
            where="device",
            remedy="Use --set device=cuda, and CUDA_VISIBLE_DEVICES to choose among GPUs",
        )
    if device == "cpu" or not torch.cuda.is_available():
        return resolve_device(device)
    if local >= torch.cuda.device_count():
        raise MissingInput(
            f"{torch.cuda.device_count()} GPUs, and process {local + 1} on this machine",
            where="torchrun",
            remedy="Start one process per GPU (--nproc-per-node), or use --set device=cpu",
        )
    return resolve_device(f"cuda:{local}")


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers that share memory with the module's, without the empty ones."""
    return {name: tensor.detach() for name, tensor in module.state_dict().items() if tensor.numel()}


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say of a lost process that it is lost."""
    try:
        yield
    except RuntimeError as error:
        raise TryAgain(
            f"another process of this run ended, or cannot be reached: {str(error).splitlines()[0].split('. ')[0]}",
            where="torchrun",
            remedy="Its own message says why; run the same command again to resume",
        ) from error
