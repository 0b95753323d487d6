"""Fewest requests in flight, regardless of length."""

from typing import Final

from vllm_router.scheduling.balance.view import EngineLoad, Policy


def rank(engine: EngineLoad) -> float:
    """Return this router's requests in flight on the engine."""
    return engine.in_flight


POLICY: Final[Policy] = Policy("least-requests", rank)
