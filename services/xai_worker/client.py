"""`submit`: send a run to a worker, follow the job, and say how it ended."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import stamina

from services.xai_worker.own_service import own_service
from shared.digests import sha256_bytes
from shared.edge import EXIT_INTERNAL
from shared.errors import (
    ConfigError,
    DataError,
    GowhyError,
    IntegrityError,
    MissingInput,
    NotPermitted,
    ServiceUnavailable,
    TryAgain,
    UsageError,
)
from shared.manifest.reading import read_bytes_capped
from shared.progress import Progress, progress, set_quiet

URL = "http://127.0.0.1:8080"
ATTEMPTS, TIMEOUT_S = 8, 120.0
AGAIN_S = 1.0
READ_S = 60.0  # the service pings every 15 s
FINAL = ("succeeded", "failed", "cancelled")
# What a problem means for whoever called this command.
BY_STATUS: dict[int, type[GowhyError]] = {
    400: UsageError,
    401: NotPermitted,
    403: NotPermitted,
    404: MissingInput,
    409: UsageError,
    410: MissingInput,
    413: DataError,
    415: UsageError,
    422: IntegrityError,
    429: TryAgain,
    503: ServiceUnavailable,
}


class Passing(Exception):
    """An answer that another attempt may not get; `after` is what the service asked to wait."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        super().__init__(str(response.status_code))


@dataclass
class Worker:
    """A client of one service. Every request is tried again where that is harmless."""

    http: httpx.Client

    def submit(self, body: bytes, *, once: bool = False) -> dict[str, Any]:
        """Submit; the key makes a repeated attempt find the job of the first one, `once` also that of an earlier call, tried again if it failed."""
        key = f"once-{sha256_bytes(body)}" if once else str(uuid.uuid4())
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        job = self._ask("POST", "/v1/explanations", content=body, headers=headers)
        if once and job["state"] in ("failed", "cancelled"):
            return self._ask("POST", job["links"]["retry"])
        return job

    def job(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job as it is now."""
        return self._ask("GET", job["links"]["self"])

    def result(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a job that succeeded."""
        return self._ask("GET", job["links"]["result"])

    def report_link(self, job: Mapping[str, Any]) -> str:
        """An address for a browser."""
        return str(self.http.base_url.join(self._ask("POST", job["links"]["report_link"])["url"]))

    def follow(self, job: Mapping[str, Any], show: Progress) -> dict[str, Any]:
        """Wait for the job's end, over lost connections and restarts of the service."""
        seen, failures = 0, 0
        while True:
            try:
                for number, kind, data in self._events(job["links"]["events"], seen):
                    seen, failures = number, 0
                    _show(show, kind, data)
            except (httpx.TransportError, Passing) as error:
                failures += 1
                if failures > ATTEMPTS:
                    raise ServiceUnavailable(
                        f"the service at {self.http.base_url} was lost",
                        remedy=f"The job goes on; ask for {job['links']['self']} later",
                    ) from error
                time.sleep(min(5.0, 0.2 * 2**failures))
                continue
            now = self.job(job)
            if now["state"] in FINAL:
                return now
            time.sleep(AGAIN_S)  # the service stops, or the stream grew old

    def _ask(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        try:
            response = _persistently(self.http, method, path, **what)
        except Passing as error:
            response = error.response
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"no answer from {self.http.base_url}", remedy="Start it with make serve, or name it with --url"
            ) from error
        if response.is_error:
            raise problem_of(response)
        found: dict[str, Any] = response.json()
        return found

    def _events(self, path: str, seen: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen)}
        with self.http.stream("GET", path, headers=headers) as response:
            if response.status_code in (429, 503):
                raise Passing(response)
            if response.is_error:
                response.read()
                raise problem_of(response)
            yield from parse_events(response.iter_lines())


@stamina.retry(on=(Passing, httpx.TransportError), attempts=ATTEMPTS, timeout=TIMEOUT_S, wait_initial=0.2, wait_max=10)
def _persistently(http: httpx.Client, method: str, path: str, **what: Any) -> httpx.Response:
    response = http.request(method, path, **what)
    if response.status_code in (429, 503):
        time.sleep(min(10.0, _seconds(response.headers.get("Retry-After"))))
        raise Passing(response)
    return response


def parse_events(lines: Iterator[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(id, kind, data) of each server-sent event; comments are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield int(fields.get("id", "0")), fields.get("event", "message"), json.loads(fields["data"])
            fields = {}
        else:
            fields = {}


def problem_of(response: httpx.Response) -> GowhyError:
    """The service's problem as an error with the right exit code."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    kind = BY_STATUS.get(response.status_code, ServiceUnavailable)
    text = body.get("detail") or body.get("title") or f"HTTP {response.status_code}"
    return kind(f"the service refused: {text}", where=f"request {body.get('request_id', '-')}")


def body_of(arguments: argparse.Namespace) -> bytes:
    """The manifest itself, or a job request where more is said than which run.

    Raises:
        MissingInput, DataError: the manifest is not there, or is none.
    """
    data = read_bytes_capped(arguments.manifest)
    asked = {
        "proteins": arguments.protein,
        "terms": arguments.term,
        "methods": arguments.method,
        "models": arguments.model,
        "windows": arguments.window,
        "top_k": arguments.top_k,
        "limit": arguments.limit,
        "seed": arguments.seed,
    }
    given = {name: value for name, value in asked.items() if value not in (None, [])}
    if not given:
        return data
    try:
        return json.dumps({"run_id": json.loads(data)["run_id"], **given}).encode()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not a manifest", where=str(arguments.manifest)) from error


def token_of(environment: Mapping[str, str] = os.environ) -> str | None:
    """GOWHY_XAI_TOKEN, or what the file GOWHY_XAI_TOKEN_FILE holds."""
    if token := environment.get("GOWHY_XAI_TOKEN", "").strip():
        return token
    if not (name := environment.get("GOWHY_XAI_TOKEN_FILE")):
        return None
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read {name}", where="GOWHY_XAI_TOKEN_FILE") from error


def submit(arguments: argparse.Namespace) -> int:
    """`submit`: 0 when the job was taken, with --wait when it succeeded; else the exit code of its failure."""
    set_quiet(arguments.quiet)
    body = body_of(arguments)
    if arguments.serve:
        # out/<run_id>/manifest.json, perhaps through out/latest: the volume is the folder of the run's folder
        with own_service(arguments.manifest.resolve().parent.parent) as (url, token):
            return _submit(arguments, body, url, token)
    return _submit(arguments, body, arguments.url or os.environ.get("GOWHY_XAI_URL") or URL, token_of())


def _submit(arguments: argparse.Namespace, body: bytes, url: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(30.0, read=READ_S)) as http:
        worker = Worker(http)
        job = worker.submit(body, once=arguments.once)
        if not (arguments.wait or arguments.serve):
            print(json.dumps(job, sort_keys=True) if arguments.json else f"{job['id']} {job['state']}")
            return 0
        with progress(f"job {job['id'][:12]}", max(1, len(job["request"]["proteins"])), "protein") as show:
            job = worker.follow(job, show)
        if job["state"] != "succeeded":
            if arguments.json:
                print(json.dumps(job, sort_keys=True))
            return _failed(job)
        _say(worker, job, arguments)
    return 0


def _say(worker: Worker, job: dict[str, Any], arguments: argparse.Namespace) -> None:
    result = worker.result(job)
    folder = arguments.manifest.resolve().parent.parent / job["result"]
    link = None if arguments.serve else worker.report_link(job)  # one that ends with the service helps nobody
    if arguments.json:
        print(json.dumps({**job, "result_record": result, "report": link}, sort_keys=True))
        return
    print(folder if folder.is_dir() else job["result"])
    print(", ".join(f"{value} {name}" for name, value in result.get("counts", {}).items()))
    if link is not None:
        print(f"report, for an hour: {link}")


def _failed(job: Mapping[str, Any]) -> int:
    error = job["error"] or {"code": job["state"], "message": f"the job was {job['state']}"}
    print(f"error: job {job['id']} {job['state']}: {error['message']}", file=sys.stderr)
    if job["state"] == "cancelled":
        return TryAgain.exit_code
    otherwise = TryAgain.exit_code if error.get("retryable") else EXIT_INTERNAL  # killed, out of memory, timed out
    return _exit_codes(GowhyError).get(error["code"], otherwise)


def _exit_codes(kind: type[GowhyError]) -> dict[str, int]:
    found = {kind.code: kind.exit_code}
    for inner in kind.__subclasses__():
        found |= _exit_codes(inner)
    return found


def _show(show: Progress, kind: str, data: Mapping[str, Any]) -> None:
    total = data.get("total")
    if isinstance(total, int) and total > 0 and total != show.total:
        show.total = total
        if show.bar is not None:
            show.bar.total = total
    done = data.get("done")
    if kind == "progress" and isinstance(done, int) and done > show.done:
        show.advance(done - show.done)
    doing = " ".join(str(data[name]) for name in ("protein", "model", "method") if data.get(name))
    if show.bar is not None and doing:
        show.bar.set_postfix_str(doing)


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 1.0
