"""The router's Prometheus metrics, in a registry of their own, under names of their own.

Counters and histograms are updated as requests end; `gauges` reads existing state on each scrape.
Label sets are bounded: a model that no engine serves never becomes a label, and an engine's series
are removed with the engine. Series that alerts and rates need start at 0: a series that first
appears as 1 shows no increase.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from vllm_router.background import BackgroundLoop
from vllm_router.observability.counters import Counter, Histogram
from vllm_router.observability.request_record import Task
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work import OutcomeKind, Urgency

#: From a third of a second for a short clip to an hour for an hour-long file.
REQUEST_BUCKETS: Final = (
    0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600,
)  # fmt: skip
WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
#: Seconds of waiting per second of audio: 0.01 is RTFx 100.
RATIO_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
PROBE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

#: Statuses that any model may eventually return.
STATUSES: Final = ("200", "429", "499", "502", "503", "504")
PIECE_OUTCOMES: Final = ("heard", "missing")
#: Why audio is transcribed again, and why words are dropped.
REHEARD_REASONS: Final = ("thin", "too_much", "empty", "language")
DROPPED_REASONS: Final = ("unspoken",)
#: The engine that won a hedged call: the first or the second.
HEDGE_WINNERS: Final = ("first", "second")


def length_label(audio_s: float) -> str:
    """Return the label for an audio's length: the lowest bound that is not exceeded."""
    if audio_s <= 30.0:
        return "30s"
    if audio_s <= 300.0:
        return "5m"
    return "30m" if audio_s <= 1800.0 else "inf"


class RouterMetrics:
    """All counters and histograms."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "vllm_router_requests",
            "Requests answered. Status 499 means that the client disconnected.",
            ["model", "route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "vllm_router_request_seconds",
            "Seconds from the request head to the end of the response.",
            ["model", "length"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "vllm_router_first_byte_seconds",
            "Seconds from the last byte of an upload to the first byte of its response.",
            ["model"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.seconds_per_audio_second = Histogram(
            "vllm_router_seconds_per_audio_second",
            "Seconds from the end of an upload to the end of its response, per second of audio.",
            ["model"],
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self.audio_seconds = Counter(
            "vllm_router_audio_seconds",
            "Seconds of audio transcribed or translated. The rate is the fleet's RTFx.",
            ["model"],
            registry=registry,
        )
        self.engine_audio_seconds = Counter(
            "vllm_router_engine_audio_seconds",
            "Seconds of audio processed by an engine. The rate is the engine's RTFx.",
            ["engine"],
            registry=registry,
        )
        self.engine_windows = Counter(
            "vllm_router_engine_windows",
            "30 s windows processed by an engine. Audio of any length costs whole windows.",
            ["engine"],
            registry=registry,
        )
        self.upload_bytes = Counter(
            "vllm_router_upload_bytes", "Bytes of uploads received.", registry=registry
        )
        self.attempts = Counter(
            "vllm_router_attempts",
            "Uploads and segments sent to an engine, by outcome.",
            ["engine", "outcome"],
            registry=registry,
        )
        self.retries = Counter(
            "vllm_router_retries", "Attempts retried on another engine.", registry=registry
        )
        self.hedges = Counter(
            "vllm_router_hedges",
            "Slow work sent to a second engine as well, by the engine that answered first.",
            ["winner"],
            registry=registry,
        )
        self.ejections = Counter(
            "vllm_router_ejections",
            "Ejections of an engine after failed responses or probes.",
            ["engine"],
            registry=registry,
        )
        self.pieces = Counter(
            "vllm_router_pieces",
            "Segments of long audio, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.reheard_seconds = Counter(
            "vllm_router_reheard_seconds",
            "Seconds of audio transcribed again, by the defect in the first transcript.",
            ["model", "reason"],
            registry=registry,
        )
        self.dropped_words = Counter(
            "vllm_router_dropped_words",
            "Words removed from engine transcripts because the audio holds no speech there.",
            ["reason"],
            registry=registry,
        )
        self.empty_transcripts = Counter(
            "vllm_router_empty_transcripts",
            "Empty transcripts of audio that contains speech.",
            ["model"],
            registry=registry,
        )
        self.key_requests = Counter(
            "vllm_router_key_requests",
            "Requests answered, by the name of the API key.",
            ["key", "status"],
            registry=registry,
        )
        self.key_audio_seconds = Counter(
            "vllm_router_key_audio_seconds",
            "Seconds of audio received, by the name of the API key.",
            ["key"],
            registry=registry,
        )
        self.queue_wait_seconds = Histogram(
            "vllm_router_queue_wait_seconds",
            "Seconds that uploads and segments waited for an engine.",
            ["model", "urgency"],
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.probe_seconds = Histogram(
            "vllm_router_probe_seconds",
            "Duration of engine probes in seconds.",
            ["engine"],
            buckets=PROBE_BUCKETS,
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "vllm_router_event_loop_lag_seconds",
            "Seconds by which the event loop ran a timer late.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self.loop_failures = Counter(
            "vllm_router_loop_failures",
            "Failures of background loops. A loop resumes after each failure.",
            ["loop"],
            registry=registry,
        )
        self.is_draining = Gauge(
            "vllm_router_draining", "1 while the router is shutting down.", registry=registry
        )
        for outcome in PIECE_OUTCOMES:
            self.pieces.labels(outcome)
        for reason in DROPPED_REASONS:
            self.dropped_words.labels(reason)
        for winner in HEDGE_WINNERS:
            self.hedges.labels(winner)
        for loop in BackgroundLoop:
            self.loop_failures.labels(loop.value)
        ProcessCollector(registry=registry)

    def loop_failed(self, loop: str) -> None:
        """Count a failure of a background loop."""
        self.loop_failures.labels(loop).inc()

    def expect(self, engine_id: EngineId, models: Iterable[str]) -> None:
        """Create the series of a ready engine and of the models that it serves."""
        for family in (self.engine_audio_seconds, self.engine_windows, self.ejections):
            family.labels(engine_id)
        for kind in OutcomeKind:
            self.attempts.labels(engine_id, kind.value)
        for model in models:
            self.audio_seconds.labels(model)
            self.empty_transcripts.labels(model)
            for reason in REHEARD_REASONS:
                self.reheard_seconds.labels(model, reason)
            for task in Task:
                for status in STATUSES:
                    self.requests.labels(model, task.value, status)
            for urgency in Urgency:
                self.queue_wait_seconds.labels(model, urgency.value)

    def forget(self, engine_id: EngineId) -> None:
        """Remove the series of an engine that is gone."""
        for family in (
            self.attempts,
            self.engine_audio_seconds,
            self.engine_windows,
            self.ejections,
            self.probe_seconds,
        ):
            family.remove_by_labels({"engine": engine_id})
