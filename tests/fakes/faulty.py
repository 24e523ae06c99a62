"""A key-value place that meets faults on demand, and a transport that dies on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shared.stores.base import Meter, Transient


class FaultyValues:
    """What a network file system or an object store does to a `KeyValue`."""

    def __init__(self, values: Any) -> None:
        self.values, self.name = values, values.name
        self.waiting: list[str] = []
        self.taken: list[str] = []
        self.sent = 0

    def inject(self, fault: str) -> None:
        self.waiting.append(fault)

    def take(self, *faults: str) -> str | None:
        for fault in faults:
            if fault in self.waiting:
                self.waiting.remove(fault)
                self.taken.append(fault)
                return fault
        return None

    def size(self, key: str) -> int:
        return self.values.size(key)

    def read(self, key: str, start: int, length: int) -> Iterator[bytes]:
        fault = self.take("truncated", "damaged download") if "objects/" in key else None
        for block in self.values.read(key, start, length):
            if fault == "truncated":
                yield block[: len(block) // 2]
                return
            yield bytes([block[0] ^ 1]) + block[1:] if fault and block else block
            fault = None

    def put(self, key: str, source: Path, meter: Meter) -> None:
        fault = self.take("dropped", "429", "500", "damaged upload")
        if fault == "dropped":
            raise Transient("injected")
        if fault == "429":
            raise Transient("injected 429", retry_after=0.1)
        if fault == "500":
            raise Transient("injected 500")
        self.values.put(key, source, meter)
        self.sent += source.stat().st_size
        if fault == "damaged upload":
            damaged = source.with_name(f"{source.name}.damaged")
            data = source.read_bytes()
            damaged.write_bytes(bytes([data[0] ^ 1]) + data[1:])
            self.values.put(key, damaged, lambda count: None)
            damaged.unlink()

    def create(self, key: str, data: bytes) -> None:
        if self.take("slow"):
            time.sleep(0.3)
        self.values.create(key, data)
        if self.take("lost answer"):
            raise Transient("injected")

    def keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        return self.values.keys(prefix)

    def delete(self, key: str) -> None:
        self.values.delete(key)

    def private(self) -> bool | None:
        return self.values.private()


class Death(BaseException):
    """The process is gone: nothing after this runs."""


class Clock:
    """Counts steps; dies at one of them, and at every later one."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.steps, self.dies_at = 0, dies_at

    def tick(self) -> None:
        self.steps += 1
        if self.dies_at is not None and self.steps >= self.dies_at:
            raise Death


class Mortal:
    """A transport, each call and each block of which is a step before and after."""

    def __init__(self, transport: Any, clock: Clock) -> None:
        self._transport, self._clock = transport, clock

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._transport, name)
        if not callable(value) or name == "traits":
            return value
        return self._reading(value) if name == "read" else self._calling(value)

    def _calling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._clock.tick()
            result = method(*arguments, **options)
            self._clock.tick()
            return result

        return call

    def _reading(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any, **options: Any) -> Iterator[bytes]:
            self._clock.tick()
            for block in method(*arguments, **options):
                self._clock.tick()
                half = len(block) // 2
                yield block[:half]
                self._clock.tick()
                yield block[half:]
            self._clock.tick()

        return read
