"""Metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from minseek.engine import Engine
from minseek.reasoning import Result
from minseek.serve.engine_thread import EngineThread

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    """Metrics of one server.

    Attributes
    ----------
    requests : Counter
        Requests by route and status.
    first_token_seconds, request_seconds : Histogram
        Seconds from the acceptance of a request to its first token, and to its end; by route.
    """

    def __init__(self) -> None:
        r = self._registry = CollectorRegistry()
        ProcessCollector(registry=r)
        self.requests = Counter("minseek_requests", "Requests answered", ["route", "status"], registry=r)
        self._prompt_tokens = Counter("minseek_prompt_tokens", "Tokens of prompts read", registry=r)
        self._generated_tokens = Counter("minseek_generated_tokens", "Tokens written, thinking included", registry=r)
        self._reasoning = Counter("minseek_reasoning_tokens", "Tokens of thinking in finished answers", registry=r)
        self._thoughts = Counter("minseek_thoughts", "Thoughts of finished answers", ["fate"], registry=r)
        for fate in ("kept", "dropped"):
            self._thoughts.labels(fate)
        self.first_token_seconds = Histogram(
            *("minseek_first_token_seconds", "From when a request was taken to its first token", ["route"]),
            buckets=_SECONDS,
            registry=r,
        )
        self.request_seconds = Histogram(
            *("minseek_request_seconds", "From when a request was taken to its end", ["route"]),
            buckets=_SECONDS,
            registry=r,
        )
        self._cache_now = Gauge("minseek_cache_bytes", "Bytes of the tokens held in slots now", registry=r)
        self._cache_peak = Gauge("minseek_cache_peak_bytes", "Bytes of the tokens held in slots at most", registry=r)
        self._counted = (0, 0)
        self._peak = 0

    def watch(self, engine: Engine, engine_thread: EngineThread, token_bytes: int) -> None:
        """Read slots and queue at every scrape; tokens are counted by `after_pass`."""
        self._engine, self._thread, self._token_bytes = engine, engine_thread, token_bytes
        plan, r = engine.plan, self._registry
        for name, text, value in (
            ("minseek_slots", "Slots, each for one choice", lambda: plan.slots),
            ("minseek_slots_used", "Slots taken now", lambda: len(engine_thread.running)),
            ("minseek_queue_length", "Choices that wait for a slot", lambda: engine_thread.waiting),
            ("minseek_cache_allocated_bytes", "Bytes of all slots, allocated at once", lambda: plan.kv_bytes),
        ):
            Gauge(name, text, registry=r).set_function(value)

    def after_pass(self) -> None:
        """Count the tokens of a pass, in the engine's thread."""
        progress, counted = self._engine.progress, self._counted
        self._counted = progress.prefill_tokens, progress.decode_tokens
        self._prompt_tokens.inc(progress.prefill_tokens - counted[0])
        self._generated_tokens.inc(progress.decode_tokens - counted[1])
        held = sum(queued.job.cache.length for queued in self._thread.running) * self._token_bytes
        self._peak = max(self._peak, held)
        self._cache_now.set(held)
        self._cache_peak.set(self._peak)

    def finished(self, result: Result) -> None:
        """Count a complete answer."""
        self._reasoning.inc(result.stats.thinking_tokens)
        for thought in result.thoughts:
            self._thoughts.labels("kept" if thought.kept else "dropped").inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
