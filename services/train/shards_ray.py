"""Shards on a Ray cluster: a pool of actors that call `embed_shard`, with restarts and a watchdog.

Ray is an optional dependency (envs/pip/ray.in). A shard is a number and its result a file on a disk that all
machines share, so actors are enough: no data goes through Ray's object store. Actors take CPUs or GPUs, and
there are never as many as the cluster has CPUs: with none left, nothing else that Ray has to start can, and
the job would wait forever.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from services.train.shards import EncoderSpec, Plan, embed_shard
from shared.errors import ConfigError, MissingInput, ServiceUnavailable
from shared.progress import progress

POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class Pool:
    """How the work is spread.

    Args:
        actors: how many; None: one per GPU, or one less than the cluster's CPUs.
        gpus: of each actor; 0 computes on CPUs.
        stall_s: without a finished shard for so long, the actors are replaced.
        attempts: of one shard, before the job ends with an error.
        address: of a running cluster; None starts one on this machine.
    """

    actors: int | None = None
    gpus: float = 0.0
    stall_s: float = 3600.0
    attempts: int = 3
    address: str | None = None


class Worker:
    """One actor: an encoder that is loaded once."""

    def __init__(self, plan: Plan, spec: EncoderSpec) -> None:
        self.plan, self.encoder = plan, spec.load()

    def embed(self, number: int) -> int:
        """Compute one shard, unless another worker was faster."""
        if not self.plan.path(number).exists():
            embed_shard(self.plan, number, self.encoder)
        return number


def run_ray(plan: Plan, spec: EncoderSpec, pool: Pool, part: tuple[int, int] = (0, 1)) -> int:
    """Compute the missing shards of a part on a cluster; how many.

    Raises:
        MissingInput: Ray is not installed.
        ConfigError: the cluster has too few CPUs or GPUs for one actor.
        ServiceUnavailable: a shard failed, or stalled, more often than `attempts`.
    """
    try:
        import ray  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingInput(
            "Ray is not installed", where="--engine ray", remedy="pip install -r envs/pip/ray.txt, or --engine local"
        ) from error
    ray.init(address=pool.address, log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        return _Run(ray, plan, spec, pool, deque(plan.missing(part))).work()
    finally:
        ray.shutdown()


def pool_size(wanted: int | None, gpus: float, resources: dict[str, float]) -> int:
    """Number of actors for a cluster's resources.

    Raises:
        ConfigError: there is no room for one.
    """
    cpus = int(resources.get("CPU", 0)) - 1  # one is left for Ray's own tasks
    room = min(cpus, int(resources.get("GPU", 0) / gpus)) if gpus else cpus
    size = room if wanted is None else min(wanted, room)
    if size < 1:
        has = f"{resources.get('CPU', 0):.0f} CPUs and {resources.get('GPU', 0):.0f} GPUs"
        raise ConfigError(
            f"no room for an actor: the cluster has {has}",
            where="--engine ray",
            remedy="One CPU more than actors is needed; start a larger cluster or use --engine local",
        )
    return size


class _Run:
    def __init__(self, ray: Any, plan: Plan, spec: EncoderSpec, pool: Pool, todo: deque[int]) -> None:
        self.ray, self.plan, self.pool, self.todo = ray, plan, pool, todo
        self.attempts: dict[int, int] = {}
        self.actor = ray.remote(num_cpus=1, num_gpus=pool.gpus)(Worker)
        self.arguments = (ray.put(plan), ray.put(spec))
        self.busy: dict[Any, tuple[Any, int]] = {}  # future -> actor, shard

    def work(self) -> int:
        """All of `todo`, in order, each by whoever is free."""
        count = len(self.todo)
        size = min(pool_size(self.pool.actors, self.pool.gpus, self.ray.cluster_resources()), max(count, 1))
        total = sum(map(self.plan.residues, self.todo))
        moved = time.monotonic()
        with progress("embed on Ray", total, "residues") as bar:
            for _ in range(size):
                self._start(self.actor.remote(*self.arguments))
            while self.busy:
                wait = min(POLL_S, self.pool.stall_s)
                ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=wait)
                for future in ready:
                    actor, number = self.busy.pop(future)
                    if self._succeeded(future, number):
                        bar.advance(self.plan.residues(number))
                        moved = time.monotonic()
                        self._start(actor)
                    else:
                        self._start(self.actor.remote(*self.arguments))
                if time.monotonic() - moved > self.pool.stall_s:
                    self._replace_all()
                    moved = time.monotonic()
        return count

    def _start(self, actor: Any) -> None:
        if self.todo:
            number = self.todo.popleft()
            self.busy[actor.embed.remote(number)] = (actor, number)
        else:
            self.ray.kill(actor)

    def _succeeded(self, future: Any, number: int) -> bool:
        """Whether the shard is there; if its actor died, the shard is first in the queue again."""
        try:
            self.ray.get(future)
        except self.ray.exceptions.RayActorError as error:
            self._again(number, error)
            return False
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
        return True

    def _replace_all(self) -> None:
        """Nothing was finished for too long: kill every actor and begin their shards again."""
        stalled = list(self.busy.values())
        self.busy.clear()
        for actor, number in stalled:
            self.ray.kill(actor)
            self._again(number, None)
        for _ in stalled:
            self._start(self.actor.remote(*self.arguments))

    def _again(self, number: int, error: Exception | None) -> None:
        self.attempts[number] = self.attempts.get(number, 0) + 1
        if self.attempts[number] >= self.pool.attempts:
            why = f"its worker died: {error}" if error else f"nothing was finished for {self.pool.stall_s:.0f} s"
            raise ServiceUnavailable(
                f"shard {number} was tried {self.pool.attempts} times; {why}",
                where="--engine ray",
                remedy="See Ray's logs for memory and lost machines; the same command goes on where this one ended",
            )
        self.todo.appendleft(number)
