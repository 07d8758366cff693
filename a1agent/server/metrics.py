"""Prometheus metrics of one server, in a registry of its own.

Shares are for the reader to divide: that of the KV cache in use is `a1_kv_cells_used / a1_kv_cells`, by model; the
observed rejection rate is `rate(a1_rejections_total[5m]) / rate(a1_verifications_total[5m])`, the asked one the same
with `a1_asked_rejections_total`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from a1agent.agent import A1
from a1agent.events import Event, StepVerified
from a1agent.server.admission import Admission
from a1agent.server.jobs import Job

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TENTHS = tuple(i / 10 for i in range(1, 11))


class Metrics:
    """Counts what the server does; `text` is what Prometheus reads."""

    def __init__(self, agent: A1, admission: Admission) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter("a1_requests", "HTTP requests.", ["route", "status", "key"], registry=self.registry)
        self._request_s = Histogram(
            "a1_request_seconds", "Until the last byte.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._first_byte_s = Histogram(
            "a1_first_byte_seconds",
            "From admission to the first byte of a stream.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "a1_tokens", "Tokens by model and by what was done to them.", ["model", "kind"], registry=self.registry
        )
        self._verifications = Counter("a1_verifications", "Drafted steps that were verified.", registry=self.registry)
        self._rejections = Counter("a1_rejections", "Of these, taken over by the target.", registry=self.registry)
        self._asked = Counter(
            "a1_asked_rejections", "Rejections had each call kept its asked rate exactly.", registry=self.registry
        )
        self._p_values = Histogram("a1_p_value", "p-values of steps.", buckets=_TENTHS, registry=self.registry)
        self.registry.register(_Now(agent, admission))

    def request(self, route: str, status: int, key: str, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status), key).inc()
        self._request_s.labels(route).observe(seconds)

    def first_byte(self, seconds: float) -> None:
        """A stream began, `seconds` after the request was admitted."""
        self._first_byte_s.observe(seconds)

    def event(self, event: Event) -> None:
        """Something happened in a call."""
        if isinstance(event, StepVerified) and math.isfinite(event.verdict.p_value):
            self._p_values.observe(event.verdict.p_value)

    def job(self, job: Job) -> None:
        """A request's calls ended, whichever way."""
        stats, usage = job.stats, job.usage
        self._verifications.inc(stats.verifications)
        self._rejections.inc(stats.rejections)
        self._asked.inc(stats.asked_rate * stats.verifications)
        for model, used in (("draft", usage.draft), ("target", usage.target)):
            for kind in ("prompt", "cached", "scored", "output"):
                self._tokens.labels(model, kind).inc(getattr(used, f"{kind}_tokens"))

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """What is so at the moment of asking."""

    def __init__(self, agent: A1, admission: Admission) -> None:
        self._agent = agent
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("a1_requests_running", "Requests that run.", value=self._admission.running)
        yield GaugeMetricFamily("a1_requests_waiting", "Requests in the queue.", value=self._admission.waiting)
        loaded = self._agent.pair.loaded
        alive = GaugeMetricFamily("a1_sequences_alive", "Sequences held by each model.", labels=["model"])
        used = GaugeMetricFamily("a1_kv_cells_used", "Tokens that each model's KV cache holds.", labels=["model"])
        cells = GaugeMetricFamily("a1_kv_cells", "Tokens that it can hold; none of a server's.", labels=["model"])
        if loaded is not None:
            for name, backend in (("draft", loaded.draft), ("target", loaded.target)):
                counters = backend.counters
                alive.add_metric([name], counters.sequences_alive)
                if counters.cells:
                    used.add_metric([name], counters.cells_used)
                    cells.add_metric([name], counters.cells)
        yield from (alive, used, cells)
