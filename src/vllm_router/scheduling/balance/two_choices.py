"""Two choices: of two engines drawn at random, the one that would finish first.

M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001. Routers with the
same outdated view of the fleet do not all choose the same engine.
"""

from typing import Final

from vllm_router.scheduling.balance.least_loaded import rank
from vllm_router.scheduling.balance.view import Candidates, LoadT, Policy


def choose(candidates: Candidates[LoadT], key: str | None) -> LoadT | None:
    """Return the better of two draws, which may be the same engine."""
    del key
    one, other = candidates.at_random(), candidates.at_random()
    if one is None or other is None:
        return one
    return one if rank(one) <= rank(other) else other


POLICY: Final[Policy] = Policy("two-choices", rank, choose)
