"""How long to wait after a failure."""

import random

_CEILING_DOUBLINGS = 30


def full_jitter(failures: int, rng: random.Random, *, base_s: float, cap_s: float) -> float:
    """Return a wait in seconds, anywhere between 0 and a ceiling that doubles with each failure.

    Spreading over the whole range, not around the ceiling, keeps many clients of one recovering
    server furthest apart (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).

    Args:
        failures: Failures in a row, 1 or more.
        rng: Source of chance.
        base_s: Ceiling after the first failure.
        cap_s: Highest ceiling.
    """
    doublings = min(failures - 1, _CEILING_DOUBLINGS)
    return rng.uniform(0, min(cap_s, base_s * 2.0**doublings))
