"""The router's Prometheus metrics, in a registry of their own, with names of their own.

Counters and histograms are written as requests end; what the fleet and the spool know already is
read when it is scraped, so that it costs a request nothing. Label sets are bounded: a model that no
engine serves is no label, and an engine's series go when the engine goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric

from vllm_router.app.tally import Counter, Histogram
from vllm_router.engines.engine import EngineId, EngineState
from vllm_router.engines.fleet import Fleet
from vllm_router.outbound.discovery import DiscoveryStatus
from vllm_router.outbound.upload import Spool

#: From a short clip's third of a second to an hour-long file's hour.
REQUEST_BUCKETS = (
    0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600,
)  # fmt: skip
WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
#: Seconds of waiting per second of audio: 0.01 is RTFx 100.
RATIO_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
PROBE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

#: Upper bounds in seconds of audio, with their label.
LENGTHS = ((30.0, "30s"), (300.0, "5m"), (1800.0, "30m"))


def length_label(audio_s: float) -> str:
    """Return the label of an audio's length: the least bound that holds it."""
    for bound_s, label in LENGTHS:
        if audio_s <= bound_s:
            return label
    return "inf"


class RouterMetrics:
    """Everything that is counted as it happens."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "vllm_router_requests",
            "Requests answered; status 499: the client left.",
            ["model", "route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "vllm_router_request_seconds",
            "From a request's head to the end of its answer.",
            ["model", "length"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "vllm_router_first_byte_seconds",
            "From an upload's last byte to the answer's first.",
            ["model"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.seconds_per_audio_second = Histogram(
            "vllm_router_seconds_per_audio_second",
            "A request's seconds after its upload came whole, for each second of its audio.",
            ["model"],
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self.audio_seconds = Counter(
            "vllm_router_audio_seconds",
            "Seconds of audio transcribed or translated; its rate is the fleet's RTFx.",
            ["model"],
            registry=registry,
        )
        self.engine_audio_seconds = Counter(
            "vllm_router_engine_audio_seconds",
            "Seconds of audio done by an engine; its rate is the engine's RTFx.",
            ["engine"],
            registry=registry,
        )
        self.upload_bytes = Counter(
            "vllm_router_upload_bytes", "Bytes of uploads received.", registry=registry
        )
        self.attempts = Counter(
            "vllm_router_attempts",
            "Uploads and pieces given to an engine, by how it went.",
            ["engine", "outcome"],
            registry=registry,
        )
        self.retries = Counter(
            "vllm_router_retries", "Attempts repeated on another engine.", registry=registry
        )
        self.hedges = Counter(
            "vllm_router_hedges",
            "Short uploads sent to a second engine, by which answered first.",
            ["winner"],
            registry=registry,
        )
        self.ejections = Counter(
            "vllm_router_ejections", "Times an engine was ejected.", ["engine"], registry=registry
        )
        self.pieces = Counter(
            "vllm_router_pieces",
            "Pieces of long audio, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.key_requests = Counter(
            "vllm_router_key_requests",
            "Requests answered, by the name of the key presented.",
            ["key", "status"],
            registry=registry,
        )
        self.key_audio_seconds = Counter(
            "vllm_router_key_audio_seconds",
            "Seconds of audio sent, by the name of the key presented.",
            ["key"],
            registry=registry,
        )
        self.queue_wait_seconds = Histogram(
            "vllm_router_queue_wait_seconds",
            "Seconds that uploads and pieces waited for an engine.",
            ["model", "urgency"],
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.probe_seconds = Histogram(
            "vllm_router_probe_seconds",
            "Seconds that probes of an engine took.",
            ["engine"],
            buckets=PROBE_BUCKETS,
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "vllm_router_event_loop_lag_seconds",
            "How much later than asked the event loop woke a timer.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self.is_draining = Gauge(
            "vllm_router_draining", "1 while the router is shutting down.", registry=registry
        )

    def forget(self, engine_id: EngineId) -> None:
        """Drop the series of an engine that is gone."""
        for family in (self.engine_audio_seconds, self.ejections, self.probe_seconds):
            family.remove_by_labels({"engine": engine_id})
        self.attempts.remove_by_labels({"engine": engine_id})


class StateCollector:
    """Reads the fleet, the spool and discovery when it is scraped.

    Args:
        fleet: Whose engines and queues are shown.
        spools: Whose bytes are shown, together.
        statuses: Returns how the sources of engines fare.
        connections: Returns how many clients are connected.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        spools: tuple[Spool, ...],
        statuses: Callable[[], Iterable[DiscoveryStatus]],
        connections: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._spools = spools
        self._statuses = statuses
        self._connections = connections
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Yield the families, as prometheus_client asks for them."""
        yield from self._engines()
        yield from self._queues()
        spool = _gauge("spool_bytes", "Bytes of uploads held.", ["where"])
        spool.add_metric(["memory"], sum(each.pool.bytes_out for each in self._spools))
        spool.add_metric(["disk"], sum(each.bytes_on_disk for each in self._spools))
        yield spool
        uploads = _gauge("open_uploads", "Uploads and pieces held.")
        uploads.add_metric([], sum(each.open_uploads for each in self._spools))
        yield uploads
        connections = _gauge("connections", "Clients connected.")
        connections.add_metric([], self._connections())
        yield connections
        age = _gauge(
            "discovery_last_sync_age_seconds",
            "Seconds since the list of engines was last known to be current.",
            ["source"],
        )
        for status in self._statuses():
            age.add_metric([status.source], status.age_s(self._now()))
        yield age

    def _engines(self) -> Iterator[Metric]:
        label = ["engine"]
        in_flight = _gauge("in_flight", "Uploads and pieces at an engine.", label)
        audio = _gauge("audio_seconds_in_flight", "Their seconds of audio.", label)
        windows = _gauge("windows_in_flight", "Their windows of 30 s.", label)
        limit = _gauge("engine_limit_windows", "Windows an engine may work on at a time.", label)
        state = _gauge("engine_state", "1 for the state an engine is in.", ["engine", "state"])
        running = _gauge("engine_running", "Sequences running, as the engine says.", label)
        waiting = _gauge("engine_waiting", "Sequences waiting, as the engine says.", label)
        cache = _gauge("engine_cache_usage", "Share of its KV cache in use.", label)
        for engine in self._fleet.engines():
            name = [engine.spec.engine_id]
            in_flight.add_metric(name, engine.in_flight)
            audio.add_metric(name, engine.audio_s_in_flight)
            windows.add_metric(name, engine.windows_in_flight)
            limit.add_metric(name, engine.limit)
            for each in EngineState:
                state.add_metric([*name, each.value], float(engine.state is each))
            if engine.stats is not None:
                running.add_metric(name, engine.stats.running)
                waiting.add_metric(name, engine.stats.waiting)
                if engine.stats.cache_usage is not None:
                    cache.add_metric(name, engine.stats.cache_usage)
        yield from (in_flight, audio, windows, limit, state, running, waiting, cache)

    def _queues(self) -> Iterator[Metric]:
        label = ["model", "urgency"]
        requests = _gauge("queue_requests", "Uploads and pieces waiting for an engine.", label)
        audio = _gauge("queue_audio_seconds", "Their seconds of audio.", label)
        wait = _gauge("queue_oldest_wait_seconds", "How long the first in line has waited.", label)
        for queue in self._fleet.queues(self._now()):
            names = [queue.model, queue.urgency.value]
            requests.add_metric(names, queue.count)
            audio.add_metric(names, queue.audio_s)
            wait.add_metric(names, queue.oldest_s)
        yield from (requests, audio, wait)


def _gauge(name: str, text: str, labels: list[str] | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vllm_router_{name}", text, labels=labels or [])
