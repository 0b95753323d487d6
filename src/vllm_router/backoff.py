"""Delays after failures."""

import random

_CEILING_DOUBLINGS = 30


def full_jitter(failures: int, rng: random.Random, *, base_s: float, cap_s: float) -> float:
    """Return a delay in seconds, uniform between 0 and a ceiling that doubles with each failure.

    Jitter over the whole range, rather than around the ceiling, spreads the clients of a recovering
    server best (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).

    Args:
        failures: Consecutive failures, 1 or more.
        rng: Source of randomness.
        base_s: Ceiling after the first failure.
        cap_s: Maximum ceiling.
    """
    doublings = min(failures - 1, _CEILING_DOUBLINGS)
    return rng.uniform(0, min(cap_s, base_s * 2.0**doublings))
