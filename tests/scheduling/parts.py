"""Engines, tickets and a registry without a fleet around them."""

from random import Random

from vllm_router.scheduling.changes import Appeared
from vllm_router.scheduling.engine import Engine, EngineId, EngineSpec, ProbeResult
from vllm_router.scheduling.engine_states import EngineEvent
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.registry import Registry
from vllm_router.scheduling.work import Ticket, Urgency

MODEL = "m"


def spec(name: str, models: tuple[str, ...] | None = (MODEL,), weight: float = 1.0) -> EngineSpec:
    return EngineSpec(EngineId(name), f"http://{name}", models, weight=weight)


def lone_engine(index: int = 1, weight: float = 1.0) -> Engine:
    """Make an engine that no registry knows."""
    return Engine(spec(f"e{index}", weight=weight), index)


def ticket(
    windows: int = 1,
    urgency: Urgency = Urgency.SHORT,
    enqueued_at: float = 0.0,
    key: str | None = None,
    excluded: frozenset[str] = frozenset(),
) -> Ticket:
    return Ticket(
        "r",
        MODEL,
        30.0 * windows,
        windows,
        urgency,
        enqueued_at,
        key,
        {EngineId(name) for name in excluded},
    )


def empty_registry(settings: FleetSettings | None = None) -> Registry:
    return Registry(settings or FleetSettings(), Random(11))


def add_ready(registry: Registry, given: EngineSpec, now: float = 0.0) -> Engine:
    registry.apply(Appeared(given), now)
    engine = registry.engines[given.engine_id]
    engine.last_probe = ProbeResult(True, 0.01, now)
    registry.move(engine, EngineEvent.PROBE_PASSED, now)
    return engine


def ready_registry(
    count: int, settings: FleetSettings | None = None, now: float = 0.0
) -> tuple[Registry, list[Engine]]:
    """Make a registry whose engines e0, e1, ... are all ready for the model m."""
    registry = empty_registry(settings)
    return registry, [add_ready(registry, spec(f"e{number}"), now) for number in range(count)]
