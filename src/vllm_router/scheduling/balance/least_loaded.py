"""Least expected finish: the engine on which one more window would be done first.

An engine's outstanding windows over its learned speed; a slow GPU with little to do loses against a
fast one with more.
"""

from typing import Final

from vllm_router.scheduling.balance.view import EngineLoad, Policy


def rank(engine: EngineLoad) -> float:
    """Return the seconds after which one more window is expected back."""
    return engine.next_window_s


POLICY: Final[Policy] = Policy("least-loaded", rank, seeks_quiet=True)
