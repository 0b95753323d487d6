"""What discovery tells the registry."""

from dataclasses import dataclass

from vllm_router.scheduling.engine import EngineId, EngineSpec


@dataclass(frozen=True, slots=True)
class Listing:
    """The whole truth now: an engine that it does not name is withdrawn."""

    specs: tuple[EngineSpec, ...]


@dataclass(frozen=True, slots=True)
class Appeared:
    """An engine is there, or its description has changed."""

    spec: EngineSpec


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An engine is going: no new work, and running work finishes."""

    engine_id: EngineId


Change = Listing | Appeared | Withdrawn
