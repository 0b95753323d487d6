"""Least expected finish: the engine that would finish one more window first.

The estimate is outstanding windows over learned speed, so a lightly loaded slow GPU can lose to a
busier fast one.
"""

from typing import Final

from vllm_router.scheduling.balance.view import EngineLoad, Policy


def rank(engine: EngineLoad) -> float:
    """Return the expected time for one more window, in seconds."""
    return engine.next_window_s


POLICY: Final[Policy] = Policy("least-loaded", rank, seeks_quiet=True)
