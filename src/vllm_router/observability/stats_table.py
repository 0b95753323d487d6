"""The table that `--log-stats` prints: each engine's load and recent speed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vllm_router.scheduling.engine import Engine, EngineId

#: Samples per engine; percentiles over more are not worth the memory.
MAX_SAMPLES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    seconds: float
    audio_s: float


class RequestStats:
    """Engines' answers within a moving time window.

    Args:
        window_s: Length of the window in seconds.
        now: Monotonic seconds.
    """

    def __init__(self, window_s: float, now: Callable[[], float]) -> None:
        self._window_s = window_s
        self._now = now
        self._samples: dict[EngineId, deque[_Sample]] = {}

    def note(self, engine_id: EngineId, seconds: float, audio_s: float) -> None:
        """Record an answer."""
        samples = self._samples.get(engine_id)
        if samples is None:
            samples = self._samples[engine_id] = deque(maxlen=MAX_SAMPLES)
        samples.append(_Sample(self._now(), seconds, audio_s))

    def forget(self, engine_id: EngineId) -> None:
        """Drop an engine that is gone."""
        self._samples.pop(engine_id, None)

    def figures(self, engine_id: EngineId) -> tuple[float, float | None, float | None]:
        """Return audio seconds per second, and the median and 95th percentile of answer times.

        The percentiles are None without answers.
        """
        samples = self._samples.get(engine_id)
        oldest = self._now() - self._window_s
        while samples and samples[0].at < oldest:
            samples.popleft()
        if not samples:
            return 0.0, None, None
        # A full buffer spans less time than the window.
        span_s = self._window_s
        if len(samples) == MAX_SAMPLES:
            span_s = max(0.001, self._now() - samples[0].at)
        times = sorted(sample.seconds for sample in samples)
        rate = sum(sample.audio_s for sample in samples) / span_s
        return rate, _percentile(times, 0.50), _percentile(times, 0.95)


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


_HEADINGS: Final = (
    "engine", "models", "state", "running", "queued", "in flight", "audio s/s", "p50 s", "p95 s",
)  # fmt: skip


def stats_table(engines: Iterable[Engine], stats: RequestStats, waiting: int) -> str:
    """Return the table as text.

    Args:
        engines: In display order.
        stats: Rates and times.
        waiting: Requests in the router's queue.
    """
    rows: list[Sequence[str]] = [_HEADINGS]
    for engine in engines:
        rate, p50, p95 = stats.figures(engine.engine_id)
        rows.append(
            (
                engine.spec.url,
                ",".join(engine.models) or "-",
                engine.state.value,
                _count(engine.stats.running if engine.stats else None),
                _count(engine.stats.waiting if engine.stats else None),
                str(engine.in_flight),
                f"{rate:.1f}",
                "-" if p50 is None else f"{p50:.2f}",
                "-" if p95 is None else f"{p95:.2f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(f"waiting in the router's queue: {waiting}")
    return "\n".join(lines)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
