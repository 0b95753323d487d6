"""Session affinity: a key maps to the same engine unless that engine is overloaded.

Consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, 2016): starting
at the key's point on a ring, take the first engine whose load is within a factor of the mean. When
the fleet grows or shrinks, only the keys of the engines that changed move.
"""

from typing import Final

from vllm_router.scheduling.balance.least_loaded import rank
from vllm_router.scheduling.balance.view import Candidates, LoadT, Policy, first_in_order

# The paper's trade-off: 1.25 keeps every engine within a quarter of the mean, and a displaced key
# finds room within a few steps (the number of steps grows with 1 / 0.25 squared).
LOAD_FACTOR: Final = 1.25


def choose(candidates: Candidates[LoadT], key: str | None) -> LoadT | None:
    """Return the key's engine, or the next one on the ring that is not overloaded.

    Work without a key goes to the least loaded engine. If every engine with room near the key's
    point is above the bound, the first of them is chosen. If none near it has room, the least
    loaded engine is chosen: the queue has already decided that the work runs.
    """
    if key is None:
        return first_in_order(candidates, key)
    bound = LOAD_FACTOR * candidates.fair_load() + 1.0
    fallback = None
    for engine in candidates.clockwise(key):
        if engine.load < bound:
            return engine
        if fallback is None:
            fallback = engine
    return fallback if fallback is not None else first_in_order(candidates, key)


POLICY: Final[Policy] = Policy("session", rank, choose)
