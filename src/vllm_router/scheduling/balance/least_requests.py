"""Fewest requests in flight, whatever their length."""

from typing import Final

from vllm_router.scheduling.balance.view import EngineLoad, Policy


def rank(engine: EngineLoad) -> float:
    """Return the requests that this router has in flight there."""
    return engine.in_flight


POLICY: Final[Policy] = Policy("least-requests", rank)
