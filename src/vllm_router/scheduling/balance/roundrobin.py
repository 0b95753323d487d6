"""Round robin: the engine whose last turn is longest ago."""

from typing import Final

from vllm_router.scheduling.balance.view import EngineLoad, Policy


def rank(engine: EngineLoad) -> float:
    """Return the number of the engine's last turn; an engine that never had a turn ranks first."""
    return engine.turn


POLICY: Final[Policy] = Policy("roundrobin", rank)
