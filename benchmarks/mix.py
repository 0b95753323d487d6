"""What clients send: many short clips, some minutes, a few very long files."""

from collections.abc import Iterator
from random import Random

from benchmarks.virtual import Request

from vllm_router.scheduling.work import windows_of

SHORT_S, MIDDLE_S, LONG_S = (2.0, 30.0), (60.0, 600.0), (1800.0, 5400.0)
SHARES = (0.90, 0.09, 0.01)


def mean_windows() -> float:
    """Return the windows of the mean request."""
    total = 0.0
    for share, (low, high) in zip(SHARES, (SHORT_S, MIDDLE_S, LONG_S), strict=True):
        steps = 4000
        audio = (low + (high - low) * (step + 0.5) / steps for step in range(steps))
        total += share * sum(map(windows_of, audio)) / steps
    return total


def arrivals(per_s: float, until_s: float, rng: Random, spread: float) -> Iterator[Request]:
    """Yield requests in order of arrival, as a Poisson process.

    Args:
        per_s: Requests per second.
        until_s: When the last may come.
        rng: Source of chance.
        spread: A window's work lies evenly within this fraction of 1 on both sides: people do not
            all speak at the same rate.
    """
    at = 0.0
    while (at := at + rng.expovariate(per_s)) < until_s:
        kind = rng.random()
        if kind < SHARES[0]:
            low, high = SHORT_S
        elif kind < SHARES[0] + SHARES[1]:
            low, high = MIDDLE_S
        else:
            low, high = LONG_S
        audio_s = rng.uniform(low, high)
        works = [rng.uniform(1.0 - spread, 1.0 + spread) for _ in range(windows_of(audio_s))]
        yield Request(at, audio_s, works)
