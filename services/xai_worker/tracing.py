"""One trace from the request through the queue into the job's process; only where OpenTelemetry is configured.

The request's trace context waits in the job's row. The worker continues it with a span per attempt, and the
child with one of its own. Without OTEL_EXPORTER_OTLP_ENDPOINT nothing here imports or costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_provider: Any = None


def configure(service: str, exporter: Any = None) -> None:
    """Export this process's spans, if an endpoint or an exporter is given.

    Args:
        service: its name in the traces.
        exporter: instead of OTLP over HTTP; for tests.
    """
    global _provider  # noqa: PLW0603 - OpenTelemetry has one provider per process too
    if exporter is None and not os.environ.get(ENDPOINT):
        return
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        exporter = OTLPSpanExporter()
    _provider = TracerProvider(resource=Resource.create({"service.name": service}))
    _provider.add_span_processor(BatchSpanProcessor(exporter))


@contextmanager
def span(name: str, traceparent: str | None, **attributes: str | int) -> Iterator[str | None]:
    """Continue a trace; yields the context that the next process continues, which is the given one without tracing."""
    if _provider is None:
        yield traceparent
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    propagator = TraceContextTextMapPropagator()
    parent = propagator.extract({} if traceparent is None else {"traceparent": traceparent})
    tracer = _provider.get_tracer("gowhy.xai_worker")
    with tracer.start_as_current_span(name, context=parent, attributes=attributes):
        carrier: dict[str, str] = {}
        propagator.inject(carrier)
        yield carrier.get("traceparent")


def flush() -> None:
    """Send what is left, before the process ends."""
    if _provider is not None:
        _provider.shutdown()
