"""The engine's counters and its /metrics page, under vLLM's names.

One series per data-parallel rank, as vLLM has them; the sums are what counts.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

# Bounds of vLLM's e2e and queue time histograms, in seconds.
_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(_BOUNDS, value)] += 1
        self.total += value


@dataclass(slots=True)
class Figures:
    """Counters of one engine since its start."""

    succeeded: int = 0
    aborted: int = 0
    generation_tokens: int = 0
    prompt_tokens: int = 0
    e2e: Histogram = field(default_factory=Histogram)
    queued: Histogram = field(default_factory=Histogram)


def shares(total: int, ranks: int) -> list[int]:
    """Share a count out over ranks as evenly as whole numbers allow."""
    return [total // ranks + (rank < total % ranks) for rank in range(ranks)]


def metrics_page(
    figures: Figures,
    model: str,
    running: int,
    waiting: int,
    is_sleeping: bool,
    ranks: int = 1,
    cache_windows: int = 256,
) -> bytes:
    """Return the exposition text.

    Args:
        figures: The counters.
        model: For the label `model_name`.
        running: Sequences (30 s windows) in service.
        waiting: Sequences not yet begun.
        is_sleeping: Whether the engine is in sleep level 1.
        ranks: Data-parallel ranks, each with the label `engine`.
        cache_windows: Windows that the KV cache holds, over all ranks.
    """
    page = _Page(model.replace("\\", r"\\").replace('"', r"\""), ranks)
    page.gauge("num_requests_running", "Number of requests in model execution batches.", running)
    page.gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting)
    usage = [round(min(1.0, count * ranks / cache_windows), 4) for count in shares(running, ranks)]
    page.rows("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", usage)
    states = (("awake", not is_sleeping), ("weights_offloaded", is_sleeping), ("discard_all", 0))
    page.head("engine_sleep_state", "gauge", "Engine sleep state.")
    for state, value in states:
        page.each("engine_sleep_state", [int(value)] * ranks, f'sleep_state="{state}",')
    page.counter("generation_tokens_total", "Generation tokens.", figures.generation_tokens)
    page.counter("prompt_tokens_total", "Prefill tokens.", figures.prompt_tokens)
    page.head("request_success_total", "counter", "Count of successfully processed requests.")
    reasons = (("stop", figures.succeeded), ("length", 0), ("abort", figures.aborted))
    for reason, count in reasons:
        row = shares(count, ranks)
        page.each("request_success_total", row, f'finished_reason="{reason}",')
    page.counter("admission_rejections_total", "Requests rejected at admission.", 0)
    page.histogram("e2e_request_latency_seconds", "End to end latency.", figures.e2e)
    page.histogram("request_queue_time_seconds", "Time spent waiting.", figures.queued)
    return page.text()


class _Page:
    def __init__(self, model: str, ranks: int) -> None:
        self._model = model
        self._ranks = ranks
        self._lines: list[str] = []

    def head(self, name: str, kind: str, about: str) -> None:
        self._lines += [f"# HELP vllm:{name} {about}", f"# TYPE vllm:{name} {kind}"]

    def each(self, name: str, values: Sequence[float], labels: str = "") -> None:
        for rank, value in enumerate(values):
            where = f'{labels}engine="{rank}",model_name="{self._model}"'
            self._lines.append(f"vllm:{name}{{{where}}} {float(value)}")

    def rows(self, name: str, kind: str, about: str, values: Sequence[float]) -> None:
        self.head(name, kind, about)
        self.each(name, values)

    def gauge(self, name: str, about: str, value: int) -> None:
        self.rows(name, "gauge", about, shares(value, self._ranks))

    def counter(self, name: str, about: str, value: int) -> None:
        self.rows(name, "counter", about, shares(value, self._ranks))

    def histogram(self, name: str, about: str, values: Histogram) -> None:
        # All on the first rank: only the sums have a meaning here.
        self.head(name, "histogram", about)
        below = 0
        for bound, count in zip((*_BOUNDS, "+Inf"), values.counts, strict=True):
            below += count
            self.each(f"{name}_bucket", [below] + [0] * (self._ranks - 1), f'le="{bound}",')
        self.each(f"{name}_count", [below] + [0] * (self._ranks - 1))
        self.each(f"{name}_sum", [values.total] + [0.0] * (self._ranks - 1))

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()
