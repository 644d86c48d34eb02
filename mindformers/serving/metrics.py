"""What a server counts, for Prometheus: its requests, and the engine at the moment of asking."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mindformers.generation.request import Engine

PREFIX = "mindformers"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_GAPS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Name -> field of EngineStats, meaning.
_GAUGES = {
    "running_answers": ("running", "Answers being written"),
    "waiting_requests": ("waiting", "Requests in the queue"),
    "cache_blocks": ("blocks", "Blocks of the cache"),
    "cache_blocks_free": ("free_blocks", "Blocks that hold nothing in use"),
    "cache_blocks_reusable": ("cached_blocks", "Free blocks whose content another prompt may use"),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts"),
    "cached_prompt_tokens": ("cached_tokens", "Tokens of prompts found in the cache"),
    "answer_tokens": ("generated_tokens", "Tokens of answers"),
    "drafted_tokens": ("drafted_tokens", "Tokens that were guessed"),
    "accepted_tokens": ("accepted_tokens", "Guessed tokens that were right"),
    "preemptions": ("preemptions", "Answers put back to make room for others"),
}


class EngineCollector(Collector):
    """The engine's own counters, read when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        """Return nothing: the names are known without asking the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the counters as they are now."""
        stats = self._engine.stats()
        for name, (attribute, meaning) in _GAUGES.items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", meaning, getattr(stats, attribute))
        for name, (attribute, meaning) in _COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}_{name}", meaning, getattr(stats, attribute))
        finished = CounterMetricFamily(
            f"{PREFIX}_answers", "Answers that ended, by why", labels=["finish_reason"]
        )
        for reason, count in sorted(stats.finished.items()):
            finished.add_metric([reason], count)
        yield finished


class Metrics:
    """The counters of one server."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine))
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "Time from a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            f"{PREFIX}_first_token_seconds",
            "Time from a request to its first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.token_gap = Histogram(
            f"{PREFIX}_token_gap_seconds",
            "Time between what a request is given",
            buckets=_GAPS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all counters in Prometheus's text form."""
        return generate_latest(self._registry)
