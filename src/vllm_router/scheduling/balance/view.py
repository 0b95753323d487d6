"""What a balancing policy may look at, and what a policy is.

A policy is a value: a name and two pure functions. One ranks an engine by what is known of it, the
other picks one of those that have room. Whoever runs the policy keeps the engines with room in the
order of their ranks, so that no policy ever walks through a fleet of a thousand.

Adding a policy is one file beside this one, with a constant `POLICY`, and one line in the table of
`balance/__init__.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar


class EngineLoad(Protocol):
    """What is known of one engine when a policy ranks it.

    Attributes:
        in_flight: Requests of this router that it has not answered.
        load: Windows of 30 s in service, this router's and, as far as known, all others'.
        turn: The number of the last decision that fell on it; grows with each decision.
        next_window_s: Seconds that one more window is expected to take there.
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
    """The engines with room for a piece of work, as a policy sees them."""

    def in_order(self) -> Iterator[LoadT_co]:
        """Yield them by rank, the lowest first, those of equal rank in random order."""
        ...

    def at_random(self) -> LoadT_co | None:
        """Return one of them, each as likely as another; None when there is none."""
        ...

    def clockwise(self, key: str) -> Iterator[LoadT_co]:
        """Yield those near a key's point on the hash ring, in their order there, each once."""
        ...

    def fair_load(self) -> float:
        """Return the windows in service on the mean engine of the pool."""
        ...


Rank = Callable[[EngineLoad], float]


class Choose(Protocol):
    """Picks one of the engines with room, for a session's key or None; None when there is none."""

    def __call__(self, candidates: Candidates[LoadT], key: str | None) -> LoadT | None: ...  # noqa: D102


def first_in_order(candidates: Candidates[LoadT], key: str | None) -> LoadT | None:
    """Choose the engine of the lowest rank, whatever the key."""
    del key
    return next(candidates.in_order(), None)


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to choose engines.

    Attributes:
        name: As given to `--routing-logic`.
        rank: Orders the engines; the lowest is the best.
        choose: Picks an engine for a piece of work, given its session key or None.
        seeks_quiet: Whether it finds the engines with the least load by itself, so that keeping
            some quiet makes short work quick.
    """

    name: str
    rank: Rank
    choose: Choose = first_in_order
    seeks_quiet: bool = False
