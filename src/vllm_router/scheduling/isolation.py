"""Uploads on which an engine has crashed, waiting for an engine without another such upload.

When an engine crashes, every upload on it is a suspect. If all were retried at once, some would
share their next engine with the lethal one, and its next crash would count against them too. So for
a short time each waits for an engine on which it is the only suspect.

Bounds: O(log n) comparisons and a few memory moves per change.

Refuses to know: engines.
"""

from bisect import bisect_left, insort

from vllm_router.scheduling.work import Ticket


class IsolationQueue:
    """The waiting suspects of one model, ordered by the end of their isolation."""

    __slots__ = ("_added", "_entries", "_keys")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Ticket]] = []
        self._keys: dict[Ticket, tuple[float, int]] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, ticket: Ticket, until: float) -> None:
        """Add a ticket that is not in the queue, until `until` at most; monotonic seconds."""
        self._added += 1
        self._keys[ticket] = (until, self._added)
        insort(self._entries, (until, self._added, ticket))

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket; do nothing if it is not in the queue."""
        key = self._keys.pop(ticket, None)
        if key is not None:
            # Shorter than its entry, so it sorts before it and after all lower entries.
            del self._entries[bisect_left(self._entries, key)]

    def first(self, count: int) -> list[Ticket]:
        """Return up to `count` tickets, those whose time ends first."""
        return [ticket for _, _, ticket in self._entries[:count]]

    def until(self) -> float | None:
        """Return when the first ticket's time ends, monotonic seconds; None if none waits."""
        return self._entries[0][0] if self._entries else None

    def take_over(self, now: float) -> list[Ticket]:
        """Remove and return the tickets whose time is over."""
        out: list[Ticket] = []
        while self._entries and self._entries[0][0] <= now:
            ticket = self._entries[0][2]
            self.discard(ticket)
            out.append(ticket)
        return out
