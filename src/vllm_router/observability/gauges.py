"""Gauges read from the fleet, the spools and discovery when Prometheus scrapes.

They cost requests nothing. This module counts nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.scheduling.engine import EngineState
from vllm_router.scheduling.fleet import Fleet
from vllm_router.spool.block_pool import BLOCK_BYTES
from vllm_router.spool.upload import Spool


class StateCollector:
    """Reads the fleet, the spools and discovery on each scrape.

    Args:
        fleet: The engines and queues.
        spools: The spools, reported together; on one disk.
        disk_bytes: Maximum bytes that they may hold on it.
        disk_share: This process's share of the disk's free space.
        statuses: Returns the status of each discovery source.
        connections: Returns the number of client connections.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        spools: tuple[Spool, ...],
        disk_bytes: int,
        disk_share: float,
        statuses: Callable[[], Iterable[DiscoveryStatus]],
        connections: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._spools = spools
        self._disk_bytes = disk_bytes
        self._disk_share = disk_share
        self._statuses = statuses
        self._connections = connections
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Yield the families, for prometheus_client."""
        yield from self._engines()
        yield from self._queues()
        yield from self._held()
        uploads = _gauge("open_uploads", "Uploads and segments held.")
        uploads.add_metric([], sum(each.open_uploads for each in self._spools))
        yield uploads
        connections = _gauge("connections", "Client connections.")
        connections.add_metric([], self._connections())
        yield connections
        age = _gauge(
            "discovery_last_sync_age_seconds",
            "Seconds since the engine list was last confirmed current.",
            ["source"],
        )
        for status in self._statuses():
            age.add_metric([status.source], status.age_s(self._now()))
        yield age

    def _held(self) -> Iterator[Metric]:
        on_disk = sum(each.bytes_on_disk for each in self._spools)
        held = _gauge("spool_bytes", "Bytes of uploads held.", ["where"])
        held.add_metric(["memory"], sum(each.pool.bytes_out for each in self._spools))
        held.add_metric(["disk"], on_disk)
        yield held
        capacity = _gauge(
            "spool_capacity_bytes",
            "Maximum bytes of uploads, limited on disk by free space.",
            ["where"],
        )
        blocks = sum(each.pool.capacity_blocks for each in self._spools)
        capacity.add_metric(["memory"], blocks * BLOCK_BYTES)
        room_bytes = _free_bytes(self._spools[0].folder) * self._disk_share
        capacity.add_metric(["disk"], min(self._disk_bytes, on_disk + room_bytes))
        yield capacity

    def _engines(self) -> Iterator[Metric]:
        label = ["engine"]
        in_flight = _gauge("in_flight", "Uploads and segments in flight on an engine.", label)
        audio = _gauge("audio_seconds_in_flight", "Seconds of audio in flight on an engine.", label)
        windows = _gauge("windows_in_flight", "30 s windows in flight on an engine.", label)
        limit = _gauge("engine_limit_windows", "Maximum windows in flight on an engine.", label)
        state = _gauge("engine_state", "1 for the current state of an engine.", ["engine", "state"])
        running = _gauge("engine_running", "Running sequences, as reported by the engine.", label)
        waiting = _gauge("engine_waiting", "Waiting sequences, as reported by the engine.", label)
        cache = _gauge("engine_cache_usage", "Fraction of an engine's KV cache in use.", label)
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
        yield self._ready()

    def _ready(self) -> Metric:
        counts = dict.fromkeys(self._fleet.models(), 0)
        for engine in self._fleet.engines():
            if engine.state is EngineState.READY:
                for model in engine.models:
                    counts[model] = counts.get(model, 0) + 1
        ready = _gauge("ready_engines", "Ready engines for a model.", ["model"])
        for model, count in counts.items():
            ready.add_metric([model], count)
        return ready

    def _queues(self) -> Iterator[Metric]:
        label = ["model", "urgency"]
        requests = _gauge("queue_requests", "Uploads and segments waiting for an engine.", label)
        audio = _gauge("queue_audio_seconds", "Seconds of audio waiting for an engine.", label)
        wait = _gauge(
            "queue_oldest_wait_seconds", "Seconds that the first in the queue has waited.", label
        )
        for queue in self._fleet.queues(self._now()):
            names = [queue.model, queue.urgency.value]
            requests.add_metric(names, queue.count)
            audio.add_metric(names, queue.audio_s)
            wait.add_metric(names, queue.oldest_s)
        yield from (requests, audio, wait)


def _free_bytes(folder: Path) -> float:
    """Return the free bytes of a disk; 0 if unknown."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0.0
    return float(disk.f_bavail * disk.f_frsize)


def _gauge(name: str, text: str, labels: list[str] | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vllm_router_{name}", text, labels=labels or [])
