"""Merge several processes' metrics into one page: counters and histograms are summed; gauges are
summed too, or their maximum is taken.

Pure: text in, text out. Reads and writes prometheus_client's format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

#: Gauges that every process reads from the same source: the maximum is the true value. All others
#: are parts of a sum.
_SHARED = frozenset(
    {
        "vllm_router_engine_state",
        "vllm_router_engine_running",
        "vllm_router_engine_waiting",
        "vllm_router_engine_cache_usage",
        # The engine's limit, not the worker's share of it.
        "vllm_router_engine_limit_windows",
        "vllm_router_queue_oldest_wait_seconds",
        "vllm_router_discovery_last_sync_age_seconds",
        "vllm_router_draining",
        "vllm_router_ready_engines",
        "process_max_fds",
        "process_start_time_seconds",
    }
)

Labels = tuple[tuple[str, str], ...]


class _Merged:
    """Exposes families that are already merged."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def only_counts(page: str) -> str:
    """Return a page's counters and histograms, without its gauges.

    Raises:
        ValueError: The page cannot be read.
    """
    registry = CollectorRegistry()
    families = text_string_to_metric_families(page)
    registry.register(_Merged(f for f in families if f.type in ("counter", "histogram")))
    return generate_latest(registry).decode()


def merge_expositions(pages: Iterable[str]) -> bytes:
    """Return several pages in Prometheus' text format merged into one.

    Raises:
        ValueError: A page cannot be read.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged = values.setdefault(family.name, {})
            is_shared = family.name in _SHARED
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                before = merged.get(key)
                if before is None:
                    merged[key] = sample.value
                elif is_shared or sample.name.endswith("_created"):
                    merged[key] = max(before, sample.value)
                else:
                    merged[key] = before + sample.value
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    registry = CollectorRegistry()
    registry.register(_Merged(families.values()))
    return generate_latest(registry)
