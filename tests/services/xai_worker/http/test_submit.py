"""POST /v1/explanations: what is taken, what is refused, and what the queue then holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from httpx import Response

from shared.digests import sha256_file
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.conftest import LOOKER, OTHER, Keys

URL = "/v1/explanations"


def refused(response: Response, status: int, kind: str) -> dict[str, Any]:
    """The problem document, after checking that it is one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (f"urn:gowhy:problem:{kind}", status)
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize("media", ["application/json", "application/x-www-form-urlencoded"])
def test_a_manifest_as_the_body_is_the_default_job_of_its_run(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, media: str
) -> None:
    spaced = json.dumps(run.value, indent=2).encode()  # spelling does not count
    for body in (run.path.read_bytes(), spaced):
        response = client.post(URL, content=body, headers={"Content-Type": media})
        assert response.status_code == 202, response.text
        job = queue.get(response.json()["id"])
        assert response.headers["location"] == f"{URL}/{job.id}" == response.json()["links"]["self"]
        assert (job.run_id, job.manifest, job.owner) == (run.run_id, f"{run.run_id}/manifest.json", "lab")
        assert (job.request["proteins"], job.request["terms"], job.request["limit"]) == ([], [], None)
        assert job.work_units == (20 + 10 + 5) * 3
        assert job.request_id == response.headers["x-request-id"]


@pytest.mark.parametrize(
    "named",
    [{"run_id": "RUN"}, {"manifest": "out/RUN/manifest.json"}, {"manifest": "RUN/manifest.json"}, {"run_id": "latest"}],
)
def test_a_job_request_names_its_run(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, named: dict[str, str]
) -> None:
    (run.out / "latest").symlink_to(run.run_id)
    body = {name: value.replace("RUN", run.run_id) for name, value in named.items()}
    response = client.post(URL, json={**body, "proteins": ["T2", "P1"], "terms": ["GO:1", "GO:2"], "seed": 7})
    assert response.status_code == 202, response.text
    job = queue.get(response.json()["id"])
    assert (job.run_id, job.work_units, job.request["seed"]) == (run.run_id, 80, 7)


def test_a_manifest_that_is_not_the_file_is_422(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    body = {**run.value, "python": "3.12"}
    refused(client.post(URL, json=body), 422, "manifest-mismatch")
    run.change(python="3.12")
    assert client.post(URL, json=body).status_code == 202
    assert len(queue.jobs) == 1


def _missing(run: PublishedRun) -> None:
    (run.folder / "models/cnn/fold_0.pt").unlink()


def _other_size(run: PublishedRun) -> None:
    (run.folder / "parsed/test_seq.feather").write_bytes(b"short")


def _other_hash(run: PublishedRun) -> None:
    stages = run.value["stages"]
    stages[0]["outputs"][0]["sha256"] = "0" * 64
    run.change(stages=stages)


def _unpacks_to_too_much(run: PublishedRun) -> None:
    path = run.folder / "parsed/test_seq.feather"
    zeros = pa.array([b"\0" * (1 << 20)], pa.binary())
    batch = pa.record_batch([pa.concat_arrays([zeros] * 256), pa.array(range(256))], names=["sequence", "id"])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(path, batch.schema, options=options) as file:
        for _ in range(8):
            file.write_batch(batch)
    assert path.stat().st_size < 2 << 20
    stages = run.value["stages"]
    stages[0]["outputs"][0] |= {"sha256": sha256_file(path), "size": path.stat().st_size}
    run.change(stages=stages)


def _linked(run: PublishedRun) -> None:
    path = run.folder / "models/cnn/fold_0.pt"
    path.unlink()
    path.symlink_to("/etc/hostname")


def _linked_folder(run: PublishedRun) -> None:
    (run.folder / "models").rename(run.out.parent / "models")
    (run.folder / "models").symlink_to(run.out.parent / "models")


def _linked_run(run: PublishedRun) -> None:
    run.folder.rename(run.out.parent / "elsewhere")
    run.folder.symlink_to(run.out.parent / "elsewhere")


def _pipe(run: PublishedRun) -> None:
    run.path.unlink()
    os.mkfifo(run.path)


def _system_file(run: PublishedRun) -> None:
    run.path.unlink()
    run.path.symlink_to("/etc/passwd")


def _partial(run: PublishedRun) -> None:
    run.change(status="partial")


def _of_another(run: PublishedRun) -> None:
    run.change(run_id="another")


def _huge(run: PublishedRun) -> None:
    with run.path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: nothing is stored, and nobody may read it to its end


def _bomb(run: PublishedRun) -> None:
    run.path.write_text("[" * 1_000_000)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (_missing, "files-not-visible"),
        (_other_size, "manifest-invalid"),
        (_other_hash, "manifest-invalid"),
        (_unpacks_to_too_much, "manifest-invalid"),
        (_linked, "files-not-visible"),
        (_linked_folder, "files-not-visible"),
        (_linked_run, "files-not-visible"),
        (_pipe, "files-not-visible"),
        (_system_file, "files-not-visible"),
        (_partial, "manifest-invalid"),
        (_of_another, "manifest-invalid"),
        (_huge, "manifest-invalid"),
        (_bomb, "manifest-invalid"),
    ],
)
def test_a_damaged_run_is_refused_with_the_reason(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, damage: Callable[[PublishedRun], None], kind: str
) -> None:
    damage(run)
    said = refused(client.post(URL, json={"run_id": run.run_id}), 422, kind)
    assert said["detail"]
    assert "root:" not in said["detail"]
    assert str(run.out.parent) not in said["detail"]
    assert not queue.jobs


@pytest.mark.parametrize(
    "path",
    [
        "../out/RUN/manifest.json",
        "/etc/passwd",
        "/etc/passwd/manifest.json",
        "RUN/../RUN/manifest.json",
        "RUN/./manifest.json/..",
        "file:///etc/passwd",
        "RUN/config_raw.json",
        "..",
        "RUN\\manifest.json",
        "~/manifest.json",
        "-/manifest.json",
        "http://127.0.0.1/manifest.json",
    ],
)
def test_a_path_that_leaves_the_volume_is_refused(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, path: str
) -> None:
    named = path.replace("RUN", run.run_id)
    if named != f"{run.run_id}/./manifest.json":
        refused(client.post(URL, json={"manifest": named}), 422, "files-not-visible")
    response = client.post(URL, json={"run_id": named})
    assert response.status_code == 422
    assert not queue.jobs


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "models/../../x", "a\0b"])
def test_a_manifest_that_names_a_system_file_is_refused(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, path: str
) -> None:
    before = sorted(str(found) for found in run.out.parent.rglob("*"))
    run.change(checkpoints=[path])
    refused(client.post(URL, json={"run_id": run.run_id}), 422, "manifest-invalid")
    body = json.dumps(run.value).encode()
    assert client.post(URL, content=body, headers={"Content-Type": "application/json"}).status_code in (400, 422)
    assert not queue.jobs
    assert sorted(str(found) for found in run.out.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe{}", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"a": "\\u0000"}',
        b'{"run_id": "x", "run_id": "y"}', b"[" * 50_000, b'{"a":' * 100 + b"1" + b"}" * 100, b"9" * 10_000, b"{}{}",
    ],
)  # fmt: skip
def test_what_is_not_plain_json_is_400(client: TestClient, queue: MemoryQueue, body: bytes) -> None:
    refused(client.post(URL, content=body, headers={"Content-Type": "application/json"}), 400, "malformed")
    assert not queue.jobs


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"run_id": "RUN", "manifest": "RUN/manifest.json"}, {"run_id": 1}, {"run_id": "RUN", "surprise": 1},
        {"run_id": "RUN", "methods": ["no_such"]}, {"run_id": "RUN", "tier": "no_such"}, {"run_id": "RUN", "top_k": 0},
        {"run_id": "RUN", "windows": [2]}, {"run_id": "RUN", "proteins": ["no such protein"]},
        {"run_id": "RUN", "proteins": ["T1\n"]}, {"run_id": "RUN", "seed": -1},
    ],
)  # fmt: skip
def test_an_impossible_job_is_422(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, asked: dict[str, Any]
) -> None:
    body = json.loads(json.dumps(asked).replace("RUN", run.run_id))
    refused(client.post(URL, json=body), 422, "invalid")
    for whole in ([], "x", 1):
        refused(client.post(URL, json=whole), 422, "invalid")
    assert not queue.jobs


def test_a_run_that_is_not_there_is_422(client: TestClient) -> None:
    said = refused(client.post(URL, json={"run_id": "absent"}), 422, "files-not-visible")
    assert "absent/manifest.json is missing" in said["detail"]


@pytest.mark.parametrize(
    ("asked", "bounds"),
    [
        ({"limit": 4}, {"max_proteins": 3}),
        ({"terms": ["a", "b"]}, {"max_terms": 1}),
        ({"proteins": ["T2"], "terms": ["a", "b"]}, {"max_work": 39}),
        ({}, {"max_work": 104}),
    ],
)
def test_work_beyond_the_bounds_is_422(
    app_with: Callable[..., TestClient], run: PublishedRun, asked: dict[str, Any], bounds: dict[str, int]
) -> None:
    body = {"run_id": run.run_id, **asked}
    refused(app_with(**bounds).post(URL, json=body), 422, "too-much-work")
    over = {name: value + 1 for name, value in bounds.items()}
    assert app_with(**over).post(URL, json=body).status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/octet-stream"},
    ],
)
def test_other_types_are_415(client: TestClient, run: PublishedRun, headers: dict[str, str]) -> None:
    refused(client.post(URL, content=run.path.read_bytes(), headers=headers), 415, "unsupported-media-type")


def test_a_form_that_is_a_form_is_415(client: TestClient) -> None:
    refused(client.post(URL, data={"run_id": "x"}), 415, "unsupported-media-type")


def test_the_same_key_gives_the_same_job(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    body = {"run_id": run.run_id}
    first = client.post(URL, json=body, headers={"Idempotency-Key": "k1"})
    assert "idempotency-replayed" not in first.headers
    queue.bound = 0  # a full queue, and a run that is gone, change nothing for a replay
    run.path.unlink()
    again = client.post(URL, json=body, headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json()["id"] == first.json()["id"]
    refused(client.post(URL, json={**body, "seed": 1}, headers={"Idempotency-Key": "k1"}), 422, "key-reused")
    refused(client.post(URL, json=body, headers={"Idempotency-Key": "k" * 256}), 422, "invalid")
    assert len(queue.jobs) == 1


def test_a_key_belongs_to_its_token(client: TestClient, run: PublishedRun, keys: Keys) -> None:
    mine = client.post(URL, json={"run_id": run.run_id}, headers={"Idempotency-Key": "k"})
    theirs = client.post(URL, json={"run_id": run.run_id}, headers=keys.headers(OTHER, **{"Idempotency-Key": "k"}))
    assert theirs.status_code == 202
    assert theirs.json()["id"] != mine.json()["id"]


def test_without_a_key_each_post_is_a_new_job(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    for _ in range(2):
        assert client.post(URL, json={"run_id": run.run_id}).status_code == 202
    assert len(queue.jobs) == 2


def test_at_the_bound_the_next_is_429(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    codes = [client.post(URL, json={"run_id": run.run_id}).status_code for _ in range(queue.bound)]
    assert codes == [202] * queue.bound
    response = client.post(URL, json={"run_id": run.run_id})
    refused(response, 429, "queue-full")
    assert int(response.headers["retry-after"]) >= 1
    assert len(queue.jobs) == queue.bound
    queue.begin(next(iter(queue.jobs)))
    assert client.post(URL, json={"run_id": run.run_id}).status_code == 202


def test_a_stampede_on_a_full_queue_does_not_reach_the_database(
    app_with: Callable[..., TestClient], queue: MemoryQueue, run: PublishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    precheck = queue.precheck
    monkeypatch.setattr(queue, "precheck", lambda *asked: (looks.append(asked), precheck(*asked))[1])
    queue.bound = 0
    with app_with(refusal_s=0.3) as client, ThreadPoolExecutor(16) as pool:  # one event loop for all of them
        answers = list(pool.map(lambda _: client.post(URL, json={"run_id": run.run_id}), range(32)))
        assert {answer.status_code for answer in answers} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        assert len(looks) < 16
        queue.bound = 1  # whoever asks after the answer finds out at once
        assert client.post(URL, json={"run_id": run.run_id}).status_code == 202
        keyed = client.post(URL, json={"run_id": run.run_id}, headers={"Idempotency-Key": "new"})
        assert keyed.status_code == 429
        assert 'gowhy_submissions_refused_total{code="queue_full"} 33.0' in client.get("/metrics").text


def test_a_token_with_too_many_jobs_is_429(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    queue.owner_bound = 1
    assert client.post(URL, json={"run_id": run.run_id}).status_code == 202
    response = client.post(URL, json={"run_id": run.run_id})
    refused(response, 429, "token-limit")
    assert "retry-after" in response.headers


def test_while_draining_it_is_503(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    queue.drain()
    response = client.post(URL, json={"run_id": run.run_id})
    refused(response, 503, "draining")
    assert "retry-after" in response.headers
    refused(client.get("/v1/health/ready"), 503, "draining")
    assert client.get("/v1/health/live").status_code == 200
    assert client.get(URL).status_code == 200


def test_scopes_are_needed(client: TestClient, run: PublishedRun, keys: Keys) -> None:
    looking = keys.headers(LOOKER)
    refused(client.post(URL, json={"run_id": run.run_id}, headers=looking), 403, "forbidden")
    assert client.get(URL, headers=looking).status_code == 200


def test_a_volume_that_is_gone_is_said(client: TestClient, run: PublishedRun, tmp_path: Path) -> None:
    run.out.rename(tmp_path / "moved")
    refused(client.post(URL, json={"run_id": run.run_id}), 422, "files-not-visible")
    assert "volume" in refused(client.get("/v1/health/ready"), 503, "unavailable")["detail"]
