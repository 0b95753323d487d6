"""Changes that discovery reports to the registry."""

from dataclasses import dataclass

from vllm_router.scheduling.engine import EngineId, EngineSpec


@dataclass(frozen=True, slots=True)
class Listing:
    """The complete list of engines; any engine not in it is withdrawn."""

    specs: tuple[EngineSpec, ...]


@dataclass(frozen=True, slots=True)
class Appeared:
    """An engine was added, or its spec changed."""

    spec: EngineSpec


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An engine was removed: it gets no new work and finishes what it has."""

    engine_id: EngineId


Change = Listing | Appeared | Withdrawn
