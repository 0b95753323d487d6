"""A hash ring: the engines that follow a session key's point, stable when other members change.

Bounds: a lookup is one hash and one bisection; a member takes 64 points.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from vllm_router.scheduling.engine import Engine

# With 64 points, the largest share of the ring is within about a third of the mean; the bound on
# load evens out the rest.
_POINTS: Final = 64


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class HashRing:
    """Members on a circle of hash values; rebuilt on the first lookup after a change."""

    __slots__ = ("_members", "_owners", "_points")

    def __init__(self) -> None:
        self._members: dict[int, Engine] = {}
        self._points: list[int] | None = None
        self._owners: list[Engine] = []

    def add(self, engine: Engine) -> None:
        """Add an engine to the ring."""
        self._members[engine.index] = engine
        self._points = None

    def discard(self, engine: Engine) -> None:
        """Remove an engine from the ring."""
        self._members.pop(engine.index, None)
        self._points = None

    def clockwise(self, key: str) -> Iterator[Engine]:
        """Yield each engine once, in ring order from the key's point."""
        if self._points is None:
            circle = sorted(
                (_hash(f"{engine.engine_id} {point}"), index)
                for index, engine in self._members.items()
                for point in range(_POINTS)
            )
            self._points = [point for point, _ in circle]
            self._owners = [self._members[index] for _, index in circle]
        start = bisect_left(self._points, _hash(key))
        seen: set[int] = set()
        for step in range(len(self._points)):
            engine = self._owners[(start + step) % len(self._points)]
            if engine.index not in seen:
                seen.add(engine.index)
                yield engine
                if len(seen) == len(self._members):
                    return
