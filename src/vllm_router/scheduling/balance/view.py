"""The interface of a balancing policy, and the view of the fleet that it gets.

A policy is a value: a name and two pure functions. One ranks an engine; the other picks one of the
engines with room. The caller keeps these engines sorted by rank, so no policy has to scan a fleet
of a thousand engines.

To add a policy, add a file beside this one with a constant `POLICY`, and a line in the table in
`balance/__init__.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar


class EngineLoad(Protocol):
    """The load of one engine, as a policy ranks it.

    Attributes:
        in_flight: This router's unanswered requests.
        load: Windows of 30 s in service, including an estimate for other routers.
        turn: Number of the last decision for this engine; increases with each decision.
        next_window_s: Expected time for one more window, in seconds.
    """

    @property
    def in_flight(self) -> int: ...  # noqa: D102
    @property
    def load(self) -> float: ...  # noqa: D102
    @property
    def turn(self) -> int: ...  # noqa: D102
    @property
    def next_window_s(self) -> float: ...  # noqa: D102


LoadT = TypeVar("LoadT", bound=EngineLoad)
LoadT_co = TypeVar("LoadT_co", bound=EngineLoad, covariant=True)


class Candidates(Protocol[LoadT_co]):
    """The engines with room for a ticket, as a policy sees them."""

    def in_order(self) -> Iterator[LoadT_co]:
        """Yield the engines by ascending rank, and in random order within a rank."""
        ...

    def at_random(self) -> LoadT_co | None:
        """Return one engine, chosen uniformly; None if there is none."""
        ...

    def clockwise(self, key: str) -> Iterator[LoadT_co]:
        """Yield the engines near a key's point in hash-ring order, each once."""
        ...

    def fair_load(self) -> float:
        """Return the pool's mean windows in service per engine."""
        ...


Rank = Callable[[EngineLoad], float]


class Choose(Protocol):
    """Picks an engine with room for a session key or None; returns None if there is none."""

    def __call__(self, candidates: Candidates[LoadT], key: str | None) -> LoadT | None: ...  # noqa: D102


def first_in_order(candidates: Candidates[LoadT], key: str | None) -> LoadT | None:
    """Choose the engine with the lowest rank, regardless of the key."""
    del key
    return next(candidates.in_order(), None)


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to choose engines.

    Attributes:
        name: Value of `--routing-logic`.
        rank: Orders the engines; the lowest rank is best.
        choose: Picks an engine for a ticket, given its session key or None.
        seeks_quiet: Whether the policy finds the least loaded engines itself, so that keeping some
            engines quiet speeds up short work.
    """

    name: str
    rank: Rank
    choose: Choose = first_in_order
    seeks_quiet: bool = False
