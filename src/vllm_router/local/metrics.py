"""The engine's metrics under vLLM's names."""

import asyncio
import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vllm_router.local.transcriber import CpuTranscriber

# The bounds of vLLM's latency histograms, in seconds.
_BUCKETS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)


class EngineMetrics:
    """Counters of one engine, and gauges that read the state of its transcriber."""

    def __init__(self, model: str, transcriber: CpuTranscriber) -> None:
        self.requests_in_flight = 0
        self._registry = CollectorRegistry()
        labels = {"engine": "0", "model_name": model}
        names = tuple(labels)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, names, registry=self._registry).labels(**labels)

        running = gauge("num_requests_running", "Number of requests in model execution batches.")
        running.set_function(lambda: transcriber.running)
        waiting = gauge("num_requests_waiting", "Number of requests waiting to be processed.")
        waiting.set_function(lambda: transcriber.waiting)
        # A CPU engine allocates no KV-cache blocks, so that 0 stays true.
        gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")
        state = Gauge(
            "vllm:engine_sleep_state",
            "Engine sleep state.",
            (*names, "sleep_state"),
            registry=self._registry,
        )
        state.labels(**labels, sleep_state="awake").set(1)
        self._e2e = Histogram(
            "vllm:e2e_request_latency_seconds",
            "End to end latency.",
            names,
            buckets=_BUCKETS,
            registry=self._registry,
        ).labels(**labels)
        self._tokens = Counter(
            "vllm:generation_tokens", "Generation tokens.", names, registry=self._registry
        ).labels(**labels)
        finished = Counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            (*names, "finished_reason"),
            registry=self._registry,
        )
        self._stopped = finished.labels(**labels, finished_reason="stop")
        self._aborted = finished.labels(**labels, finished_reason="abort")

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request as in flight, and as aborted if its client leaves."""
        self.requests_in_flight += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self._aborted.inc()
            raise
        finally:
            self.requests_in_flight -= 1

    def record(self, latency_s: float, generated_tokens: int) -> None:
        """Count a successful request."""
        self._stopped.inc()
        self._e2e.observe(latency_s)
        self._tokens.inc(generated_tokens)

    def page(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)
