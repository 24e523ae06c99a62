"""Logs that can be joined by their ids, traces that go on in the job, and documentation that names what there is."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.xai_worker.http.problem import KINDS
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.logs import JsonLines
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.conftest import Keys

REPOSITORY = Path(__file__).resolve().parents[4]
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_a_request_is_one_json_line_without_secrets(client: TestClient, run: PublishedRun, keys: Keys) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("gowhy.http")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        made = client.post("/v1/explanations?key=hidden", json={"run_id": run.run_id})
        client.get("/v1/info", headers={"Authorization": "Bearer " + "w" * 40})
    finally:
        logger.removeHandler(handler)
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["request_id"] == made.headers["x-request-id"]
    assert (first["job_id"], first["owner"], first["status"]) == (made.json()["id"], "lab", 202)
    assert (second["status"], second.get("owner")) == (401, None)
    for secret in (*keys.plain.values(), "hidden", "w" * 40):
        assert secret not in stream.getvalue()


def test_the_clients_trace_goes_with_the_job(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    for sent, kept in ((TRACEPARENT, TRACEPARENT), ("forged\x1b", None), (None, None)):
        headers = {} if sent is None else {"traceparent": sent}
        job_id = client.post("/v1/explanations", json={"run_id": run.run_id}, headers=headers).json()["id"]
        assert queue.get(job_id).traceparent == kept


SCRIPT = """
import sys
from fastapi.testclient import TestClient
from pathlib import Path
from services.xai_worker.app import create_app
from services.xai_worker.http.tokens import Tokens
from services.xai_worker.http_settings import HttpSettings
from tests.fakes.memory_queue import MemoryQueue
queue = MemoryQueue()
with TestClient(create_app(queue, HttpSettings(out=Path(sys.argv[1])), Tokens())) as client:
    client.post("/v1/explanations", json={"run_id": sys.argv[2]}, headers={"traceparent": sys.argv[3]})
print(next(iter(queue.jobs.values())).traceparent)
"""


def test_a_configured_collector_gets_the_trace(run: PublishedRun) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    command = [sys.executable, "-c", SCRIPT, str(run.out), run.run_id, TRACEPARENT]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    version, trace, span, _ = done.stdout.strip().split("-")
    assert (version, trace) == ("00", TRACE)
    assert span != "b7ad6b7169203331"  # a span of the service, below the client's
    traces = [body for path, body in received if path == "/v1/traces"]
    assert any(bytes.fromhex(TRACE) in body and bytes.fromhex(span) in body for body in traces)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem_is_documented(kind: str) -> None:
    text = (REPOSITORY / "docs" / "worker.md").read_text(encoding="utf-8")
    assert f"`{kind}`" in text


def test_documented_settings_and_metrics_exist(client: TestClient) -> None:
    import re

    from services.xai_worker.settings import WorkerSettings

    text = (REPOSITORY / "docs" / "worker.md").read_text(encoding="utf-8")
    limits = text.partition("## Limits")[2].partition("\n## ")[0]
    named = {name.lower() for name in re.findall(r"`([A-Z][A-Z_]+)`", limits)}
    assert named
    assert named <= {*HttpSettings.model_fields, *WorkerSettings.model_fields}
    metrics = client.get("/metrics").text
    for name in re.findall(r"`(gowhy_\w+)", text):
        assert f"# TYPE {name.removesuffix('_total')}" in metrics, name
