"""Session: the same key goes to the same engine while that engine carries no more than its share.

Consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, 2016): from the
key's point on a ring the first engine is taken whose load stays within a factor of the mean. A
fleet that grows or shrinks moves only the keys of the engines that changed.
"""

from typing import Final

from vllm_router.scheduling.balance.least_loaded import rank
from vllm_router.scheduling.balance.view import Candidates, LoadT, Policy, first_in_order

# The paper's trade: 1.25 keeps any engine within a quarter of the mean, and a key that has to move
# on finds room within a few steps (the steps grow with 1 / 0.25 squared).
LOAD_FACTOR: Final = 1.25


def choose(candidates: Candidates[LoadT], key: str | None) -> LoadT | None:
    """Return the key's engine, or the next on the ring that is not overloaded.

    Work without a key goes to the least loaded engine. When every engine near the key's point that
    has room is above the bound, the first of them is taken, and when none there has room, the least
    loaded of all: the queue has already decided that the work runs.
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
