"""Prometheus metrics: requests are counted here, the queue's figures are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from services.xai_worker.queue.base import HISTOGRAM_BOUNDS_S, Histogram, JobState, QueueStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHODS = {"GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"}


class QueueCollector:
    """The queue's figures as metric families."""

    def __init__(self, stats: Callable[[], QueueStats]) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Nothing: naming the families must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family each."""
        stats = self._stats()
        jobs = GaugeMetricFamily("gowhy_jobs", "Jobs by state", labels=["state"])
        for state in JobState:
            jobs.add_metric([str(state)], stats.by_state.get(state, 0))
        yield jobs
        gauges: dict[str, tuple[str, float | None]] = {
            "gowhy_queue_waiting": ("Jobs that wait", stats.waiting),
            "gowhy_queue_bound": ("Jobs that may wait", stats.bound),
            "gowhy_queue_oldest_waiting_seconds": ("Age of the job that waits longest", stats.oldest_waiting_s or 0.0),
            "gowhy_worker_slots": ("Jobs that can run at once", stats.slots),
            "gowhy_workers": ("Live workers", stats.workers),
            "gowhy_last_claim_timestamp_seconds": ("When a job last began", stats.last_claim_at),
            "gowhy_last_heartbeat_timestamp_seconds": ("When a worker last gave a sign", stats.last_heartbeat_at),
        }
        for name, (text, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily("gowhy_job_retries", "Attempts repeated after a failure", value=stats.retries)
        yield CounterMetricFamily(
            "gowhy_job_recoveries", "Attempts repeated after a worker was lost", value=stats.recoveries
        )
        failed = GaugeMetricFamily("gowhy_jobs_failed", "Failed jobs by reason", labels=["code"])
        for code, count in sorted(stats.failures_by_code.items()):
            failed.add_metric([code], count)
        yield failed
        yield _family("gowhy_job_queue_wait_seconds", "From submission to the first attempt", stats.queue_wait)
        yield _family("gowhy_job_run_seconds", "From the first attempt to the end", stats.run_time)


class HttpMetrics:
    """One application's registry."""

    def __init__(self, stats: Callable[[], QueueStats]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(QueueCollector(stats))
        labels = ("method", "route", "status")
        self._requests = Counter("gowhy_http_requests", "Answered requests", labels, registry=self.registry)
        self._seconds = PrometheusHistogram(
            "gowhy_http_request_seconds",
            "Time to answer; event streams count to their end",
            labels[:2],
            registry=self.registry,
            buckets=LATENCY_S,
        )
        self.refused = Counter(
            "gowhy_submissions_refused", "Submissions refused by a bound", ["code"], registry=self.registry
        )
        self.streams = Gauge("gowhy_http_event_streams", "Open event streams", registry=self.registry)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. The route is a template, so that names in addresses make no new series."""
        known = method if method in METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def render(self) -> bytes:
        """The exposition format; raises what the queue raises."""
        return generate_latest(self.registry)


def _family(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets = [(str(bound), count) for bound, count in zip(HISTOGRAM_BOUNDS_S, histogram.counts, strict=True)]
    return HistogramMetricFamily(name, text, buckets=[*buckets, ("+Inf", histogram.count)], sum_value=histogram.sum)
