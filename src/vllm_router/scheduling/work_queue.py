"""The order of waiting work: short before long, without starving either.

There is one queue per model, with two heaps. Short work leaves in order of arrival. Segments of
long audio leave in the order in which their files arrived: served one after another, files finish
earlier on average than in parallel. Segments far into a very long file are postponed in proportion
to the windows before them, so nobody waits for a day of audio, and later files cannot overtake
forever. A retry keeps its place.

Long work that is late goes before short work that arrived after it, as long as that short work has
hardly waited: the price is a short delay for many short requests rather than a long delay for few.

Bounds: adding and taking cost O(log n). A withdrawn item leaves the counts at once. It is dropped
from its heap when it surfaces, or when such leftovers are more than half of the heap. An item that
waits for a condition of its own is counted, but nothing waits behind it.

Refuses to know: engines, limits and clocks.
"""

import heapq
import math
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

# Place of an item that is counted but in no heap.
_ASIDE: Final = -1


class Urgency(Enum):
    """Whether work is a short request or a segment of long audio."""

    SHORT = "short"
    LONG = "long"


class QueueItem(Protocol):
    """The part of a ticket that the queue reads; `place` belongs to the queue, 0 while outside."""

    enqueued_at: float
    place: int

    @property
    def windows(self) -> int: ...  # noqa: D102
    @property
    def audio_s(self) -> float: ...  # noqa: D102
    @property
    def urgency(self) -> Urgency: ...  # noqa: D102
    @property
    def ahead(self) -> int: ...  # noqa: D102


ItemT = TypeVar("ItemT", bound=QueueItem)


class QueueLane(Generic[ItemT]):
    """Work of one urgency.

    Attributes:
        pace_s: Postponement of an item per window of its audio before it, in seconds.
        file_windows: Number of windows before an item that do not postpone it.
        count: Items waiting.
        windows: Their windows of 30 s.
        audio_s: Their seconds of audio.
    """

    __slots__ = ("_heap", "audio_s", "count", "file_windows", "pace_s", "windows")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ItemT]] = []
        self.count = 0
        self.windows = 0
        self.audio_s = 0.0
        self.pace_s = 0.0
        self.file_windows = 0.0

    def add(self, item: ItemT, place: int) -> None:
        """Queue an item at a place number that was never used before."""
        self.place(item, place)
        self._count(item)

    def add_aside(self, item: ItemT) -> None:
        """Count an item without queueing it; `place` queues it later."""
        item.place = _ASIDE
        self._count(item)

    def place(self, item: ItemT, place: int) -> None:
        """Queue an item that has already been counted."""
        item.place = place
        heapq.heappush(self._heap, (self.due(item), place, item))

    def due(self, item: ItemT) -> float:
        """Return the sort key of an item, monotonic seconds."""
        beyond = max(item.windows, item.ahead) - self.file_windows
        return item.enqueued_at + self.pace_s * beyond if beyond > 0.0 else item.enqueued_at

    def _count(self, item: ItemT) -> None:
        self.count += 1
        self.windows += item.windows
        self.audio_s += item.audio_s

    def head(self) -> ItemT | None:
        """Return the first item in the queue, or None."""
        heap = self._heap
        while heap:
            _, place, item = heap[0]
            if item.place == place:
                return item
            heapq.heappop(heap)
        return None

    def remove(self, item: ItemT) -> None:
        """Remove an item that is in the queue."""
        heap = self._heap
        item.place = 0
        self.count -= 1
        self.windows -= item.windows
        self.audio_s -= item.audio_s
        if heap and heap[0][2] is item:
            heapq.heappop(heap)
        elif len(heap) > 2 * self.count + 32:
            self._heap = [entry for entry in heap if entry[2].place == entry[1]]
            heapq.heapify(self._heap)
        if not self.count:
            # Discard the rounding errors of a long day of adding and subtracting.
            self.audio_s = 0.0


class WorkQueue(Generic[ItemT]):
    """The queue of one model.

    Args:
        ageing_s: Wait after which long work may go before short work, in seconds.
        aged_share: While short work waits, at most one in this many decisions goes to aged long
            work. One in four keeps both moving even when either alone would fill the fleet.
        proportion: Short work waits at least this share of the time for which long work waits
            beyond its patience and its postponement.
        patience: The patience of long work, in window times at the engines' current load.
        head_start: Once long work is later than this, in window times, it goes before short work
            that arrived after it, until that has waited for `turn`. Infinity means never.
        turn: Also in window times.
    """

    __slots__ = (
        "_aged_share",
        "_places",
        "_since_aged",
        "ageing_s",
        "head_start",
        "long",
        "patience",
        "proportion",
        "short",
        "turn",
    )

    def __init__(
        self,
        ageing_s: float = 30.0,
        aged_share: int = 4,
        proportion: float = 0.0,
        patience: float = 1.0,
        head_start: float = math.inf,
        turn: float = 0.0,
    ) -> None:
        self.ageing_s = ageing_s
        self.proportion = proportion
        self.patience = patience
        self.head_start = head_start
        self.turn = turn
        self._aged_share = aged_share
        self.short: QueueLane[ItemT] = QueueLane()
        self.long: QueueLane[ItemT] = QueueLane()
        self._places = 0
        self._since_aged = 0

    def __len__(self) -> int:
        return self.short.count + self.long.count

    @property
    def windows(self) -> int:
        """Windows of 30 s waiting."""
        return self.short.windows + self.long.windows

    @property
    def audio_s(self) -> float:
        """Seconds of audio waiting."""
        return self.short.audio_s + self.long.audio_s

    def lane(self, item: ItemT) -> QueueLane[ItemT]:
        """Return an item's lane."""
        return self.short if item.urgency is Urgency.SHORT else self.long

    def add(self, item: ItemT) -> None:
        """Queue an item; one that is already queued keeps its place."""
        if item.place:
            return
        self._places += 1
        self.lane(item).add(item, self._places)

    def add_aside(self, item: ItemT) -> None:
        """Count an item that is queued only by `line_up`; one already in keeps its place."""
        if not item.place:
            self.lane(item).add_aside(item)

    def line_up(self, item: ItemT) -> None:
        """Queue an item that was added aside; do nothing for any other."""
        if item.place == _ASIDE:
            self._places += 1
            self.lane(item).place(item, self._places)

    def remove(self, item: ItemT) -> bool:
        """Remove an item, wherever it waits; return False if it is not in."""
        if not item.place:
            return False
        self.lane(item).remove(item)
        return True

    def took_short(self) -> None:
        """Count a decision for short work."""
        self._since_aged += 1

    def took_aged(self) -> None:
        """Count a decision for aged long work."""
        self._since_aged = 0

    def outwaited(self, now: float, window_s: float) -> ItemT | None:
        """Return the long item that has waited out of proportion to short work, or None.

        Args:
            now: Monotonic seconds.
            window_s: Time of a window at the engines' current load, in seconds.
        """
        long = self.long.head()
        short = self.short.head()
        if long is None or short is None:
            return None
        late_s = now - self.long.due(long)
        waits_s = now - short.enqueued_at
        if late_s > self.head_start * window_s and waits_s < min(late_s, self.turn * window_s):
            # A bounded wait for short work. A share of the wait of long work would grow with the
            # backlog, which is where the slowest percent of short requests arises.
            return long
        is_due = self.proportion * (late_s - self.patience * window_s) > waits_s
        return long if is_due else None

    def aged(self, now: float) -> ItemT | None:
        """Return the long item that may go before short work now, or None."""
        if self._since_aged < self._aged_share - 1 and self.short.count:
            return None
        head = self.long.head()
        return head if head is not None and now - head.enqueued_at >= self.ageing_s else None
