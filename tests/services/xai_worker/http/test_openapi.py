"""The OpenAPI document: committed, true, and complete as far as schemathesis can tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from schema.__main__ import FOLDER, OPENAPI, render
from services.xai_worker.app import create_app, openapi_document
from services.xai_worker.http.tokens import Tokens
from services.xai_worker.http_settings import HttpSettings
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.conftest import CHIEF, Keys

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys()


@dataclass
class Api:
    """The application as schemathesis sees it, with a job in each state, over one run."""

    schema: schemathesis.BaseSchema
    jobs: list[str]
    run: PublishedRun


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Api:
    run, queue = PublishedRun(tmp_path_factory.mktemp("api") / "out"), MemoryQueue(bound=8)
    app = create_app(queue, HttpSettings(out=run.out, stream_s=0.1, stream_poll_s=0.05), Tokens(keys.known))
    client = TestClient(app, headers=keys.headers(CHIEF))
    made = [client.post("/v1/explanations", json={"run_id": run.run_id}).json()["id"] for _ in range(5)]
    for job_id in made[:3]:
        queue.begin(job_id)
    run.result(made[0])
    queue.succeed(made[0])
    queue.fail(made[1])
    queue.cancel(made[3])
    return Api(schemathesis.openapi.from_asgi("/v1/openapi.json", app), made, run)


DOCUMENT = openapi_document()
OPERATIONS = [(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations]


def drive(api: Api, place: tuple[str, str], count: int, check: Callable[[schemathesis.Case], None]) -> None:
    """Send generated requests, valid and invalid, to one operation."""
    path, method = place
    operation = api.schema[path][method]
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

    cases = operation.as_strategy()
    if {"parameters", "requestBody", "security"} & set(DOCUMENT["paths"][path][method]):  # else nothing can be wrong
        cases = st.one_of(cases, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))

    @settings(max_examples=count, deadline=None, suppress_health_check=checks, derandomize=True, database=None)
    @given(case=cases)
    def each(case: schemathesis.Case) -> None:
        check(case)

    each()


@pytest.mark.parametrize("count", [8, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("place", OPERATIONS, ids=" ".join)
def test_nothing_undocumented_is_answered(api: Api, keys: Keys, place: tuple[str, str], count: int) -> None:
    def check(case: schemathesis.Case) -> None:
        _at_home(case, api)
        response = case.call(headers=keys.headers(CHIEF))
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            assert response.headers["content-type"][0] == "application/problem+json"
            assert response.json()["status"] == response.status_code
        statuses[response.status_code] += 1

    statuses = Counter[int]()
    drive(api, place, count, check)
    assert statuses


@pytest.mark.parametrize("place", OPERATIONS, ids=" ".join)
def test_without_a_token_nothing_is_told(api: Api, place: tuple[str, str]) -> None:
    def check(case: schemathesis.Case) -> None:
        response = case.call()
        open_ = place[0] in ("/v1/health/live", "/v1/health/ready", "/", "/v1/reports/{ticket}/{path}")
        assert response.status_code in ((200, 404, 422) if open_ else (401, 404, 422)), response.text

    drive(api, place, 2, check)


def _at_home(case: schemathesis.Case, api: Api) -> None:
    """Aim some of the generated requests at jobs and runs that are there; a random id alone only finds 404."""
    if "job_id" in (case.path_parameters or {}):
        length = len(str(case.path_parameters["job_id"]))
        if length % 3 == 0:
            case.path_parameters["job_id"] = api.jobs[length // 3 % len(api.jobs)]
    if isinstance(case.body, dict) and isinstance(case.body.get("run_id"), str) and len(case.body["run_id"]) % 2:
        case.body["run_id"] = api.run.run_id


def test_the_committed_document_is_the_applications() -> None:
    assert (FOLDER / OPENAPI).read_text(encoding="utf-8") == render(OPENAPI), "run make schema"


def test_every_operation_says_what_it_does_and_how_it_fails() -> None:
    document = json.loads((FOLDER / OPENAPI).read_text(encoding="utf-8"))
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            assert "500" in operation["responses"], where
            if path.startswith("/v1/explanations") or path == "/v1/info":
                assert {"401", "403"} <= set(operation["responses"]), where
                assert operation["security"] == [{"HTTPBearer": []}], where
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (where, status)
