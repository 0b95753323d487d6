"""Uploads on which an engine has died, waiting for an engine that holds no other such upload.

When an engine dies, every upload on it is a suspect. Were they all repeated at once, some would
share their next engine with the one that is deadly, and its next death would speak against them
too. So for a short time each waits for an engine of which it is the only suspect.

Bounds: O(log n) comparisons and a few memory moves for each change.

Refuses to know: engines.
"""

from bisect import bisect_left, insort

from vllm_router.scheduling.work import Ticket


class IsolationQueue:
    """The suspects of one model that wait, those first whose time ends first."""

    __slots__ = ("_added", "_entries", "_keys")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Ticket]] = []
        self._keys: dict[Ticket, tuple[float, int]] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, ticket: Ticket, until: float) -> None:
        """Let a ticket wait that does not, until then at most; monotonic seconds."""
        self._added += 1
        self._keys[ticket] = (until, self._added)
        insort(self._entries, (until, self._added, ticket))

    def discard(self, ticket: Ticket) -> None:
        """Let a ticket wait no longer; nothing happens if it does not."""
        key = self._keys.pop(ticket, None)
        if key is not None:
            # Shorter than its entry, so it sorts before it and after all others below.
            del self._entries[bisect_left(self._entries, key)]

    def first(self, count: int) -> list[Ticket]:
        """Return the tickets whose time ends first, at most so many."""
        return [ticket for _, _, ticket in self._entries[:count]]

    def until(self) -> float | None:
        """Return when the first ticket's time ends, monotonic seconds; None: none waits."""
        return self._entries[0][0] if self._entries else None

    def take_over(self, now: float) -> list[Ticket]:
        """Return the tickets whose time is over, which wait no longer."""
        out: list[Ticket] = []
        while self._entries and self._entries[0][0] <= now:
            ticket = self._entries[0][2]
            self.discard(ticket)
            out.append(ticket)
        return out
