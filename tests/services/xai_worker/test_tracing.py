from __future__ import annotations

import pytest

from services.xai_worker import tracing

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def test_without_an_endpoint_the_context_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracing.ENDPOINT, raising=False)
    tracing.configure("service")
    with tracing.span("attempt", PARENT) as following:
        assert following == PARENT


def test_spans_of_two_processes_join_the_request_s_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_provider", None)
    tracing.configure("service", exporter)
    with tracing.span("attempt", PARENT, job_id="j") as following:
        pass
    with tracing.span("explain", following):
        pass
    tracing._provider.force_flush()
    attempt, explain = exporter.get_finished_spans()
    assert f"{attempt.context.trace_id:032x}" == f"{explain.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{attempt.parent.span_id:016x}" == PARENT.split("-")[2]
    assert explain.parent.span_id == attempt.context.span_id
    assert attempt.attributes["job_id"] == "j"
    tracing.flush()
