"""Engines as a policy sees them, without a fleet."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from vllm_router.scheduling.balance import EngineLoad, Policy


@dataclass(frozen=True)
class FakeLoad:
    """One engine's figures."""

    name: str = "e"
    in_flight: int = 0
    load: float = 0.0
    turn: int = 0
    next_window_s: float = 1.0


@dataclass
class FakeCandidates:
    """Engines with room; clockwise from any key is the order in which they are given.

    Attributes:
        engines: The engines.
        policy: Whose rank orders them.
        keys: The keys whose points on the ring were asked for.
        rng: Draws.
    """

    engines: tuple[FakeLoad, ...]
    policy: Policy
    keys: list[str] = field(default_factory=list)
    rng: Random = field(default_factory=lambda: Random(3))

    def in_order(self) -> Iterator[FakeLoad]:
        return iter(sorted(self.engines, key=self._rank))

    def _rank(self, engine: EngineLoad) -> float:
        return self.policy.rank(engine)

    def at_random(self) -> FakeLoad | None:
        return self.rng.choice(self.engines) if self.engines else None

    def clockwise(self, key: str) -> Iterator[FakeLoad]:
        self.keys.append(key)
        return iter(self.engines)

    def fair_load(self) -> float:
        return sum(engine.load for engine in self.engines) / max(1, len(self.engines))
