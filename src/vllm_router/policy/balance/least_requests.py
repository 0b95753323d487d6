"""Fewest requests in flight, whatever their length."""

from typing import Final

from vllm_router.policy.balance.view import Load, Policy


def rank(engine: Load) -> float:
    """Return the requests that this router has in flight there."""
    return engine.in_flight


POLICY: Final[Policy] = Policy("least-requests", rank)
