from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.docker.stack import ACCOUNT, BASE, REPOSITORY, TOKEN, docker
from tests.fakes.published_run import RUN_ID, PublishedRun

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
JOBS, WORKERS = 60, 3


@pytest.fixture(scope="module")
def postgres_image(images) -> str:
    """The usual image where it can be pulled, else one from Debian's packages."""
    if images["RUNTIME_IMAGE"] != BASE:
        return "postgres:17-bookworm"
    name = "gowhy-postgres:local"
    if docker("image", "inspect", name, check=False).returncode:
        done = subprocess.run(
            ["make", "-s", "postgres-image"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return name


def test_three_workers_share_sixty_jobs_and_one_of_them_is_killed(stack, postgres_image) -> None:
    PublishedRun(stack.out)
    for path in (stack.out, *stack.out.rglob("*")):
        if os.getuid() == 0:
            os.chown(path, ACCOUNT, ACCOUNT)
    password, url = stack.folder / "password", stack.folder / "url"
    password.write_text("a-password-for-tests")
    url.write_text("postgresql://gowhy:a-password-for-tests@postgres/gowhy")
    stack.environment |= {
        "SCALE": str(WORKERS),
        "POSTGRES_IMAGE": postgres_image,
        "POSTGRES_PASSWORD_FILE": str(password),
        "DATABASE_URL_FILE": str(url),
        "COMPOSE_OVERRIDES": "tests/docker/light.yaml",
        "GOWHY_TESTS": str(REPOSITORY / "tests"),
    }
    stack.compose("up", "--no-build", "--detach", "--scale", f"xai-worker={WORKERS}", "api", "xai-worker")
    address = stack.compose("port", "api", "8080").stdout.strip()
    http = httpx.Client(base_url=f"http://{address}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
    stack.wait(lambda: ready(http))
    workers = stack.compose("ps", "--quiet", "xai-worker").stdout.split()
    assert len(workers) == WORKERS
    jobs = []
    for seed in range(JOBS):
        answer = http.post("/v1/explanations", json={"run_id": RUN_ID, "proteins": ["T1"], "seed": seed})
        assert answer.status_code == 202, answer.text
        jobs.append(answer.json()["id"])
        if seed == JOBS // 3:
            stack.wait(lambda: len(published(stack.out)) > 2 and in_hand(stack.out, workers[0][:12]))
            docker("kill", workers[0])
    stack.wait(lambda: len(finished(http)) == JOBS)
    ended = finished(http)
    http.close()
    assert set(ended.values()) == {"succeeded"}
    assert set(ended) == set(jobs)
    results = published(stack.out)
    assert {path.parent.name for path in results} == set(jobs)
    assert all(json.loads(path.read_text())["status"] == "complete" for path in results)
    lines = [json.loads(line) for line in (stack.out / "audit.jsonl").read_text().splitlines()]
    renamed = Counter(line["job"] for line in lines if line["kind"] == "renamed")
    assert renamed == Counter(dict.fromkeys(jobs, 1))
    # A container's host name is the start of its id.
    hosts = Counter(line["host"] for line in lines if line["kind"] == "renamed")
    killed, *others = (worker[:12] for worker in workers)
    assert all(hosts[worker] > JOBS // 6 for worker in others), hosts
    # It was killed in the middle: a job that it began, another worker published.
    done_by = {line["job"]: line["host"] for line in lines if line["kind"] == "renamed"}
    begun = {line["job"] for line in lines if line["kind"] == "begin" and line["host"] == killed}
    assert [job for job in begun if done_by[job] != killed], hosts


def ready(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def in_hand(out: Path, host: str) -> bool:
    """Whether this container has begun a job that it has not published."""
    last = [
        line["kind"] for line in map(json.loads, (out / "audit.jsonl").read_text().splitlines()) if line["host"] == host
    ]
    return last[-1:] == ["begin"]


def published(out: Path) -> list[Path]:
    return sorted(out.glob("*/xai/*/result.json"))


def finished(http: httpx.Client) -> dict[str, str]:
    """State of each job that has ended."""
    found, token = {}, ""
    while True:
        page = http.get("/v1/explanations", params={"page_size": 50, **({"page_token": token} if token else {})}).json()
        found |= {
            job["id"]: job["state"] for job in page["jobs"] if job["state"] in {"succeeded", "failed", "cancelled"}
        }
        token = page.get("next_page_token") or ""
        if not token:
            return found
