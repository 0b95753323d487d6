"""Who goes next when a slot frees: short before long, little before much, nothing starved.

One queue per model with two heaps. Short work leaves in the order in which it came. Pieces of long
audio leave in the order in which their audio came: served one after the other, files are done
sooner in the mean than side by side. What lies far into a very long audio is put back by a time for
all that is before it, so that nobody waits for a day of audio, and nobody who comes later overtakes
for ever. A repeated attempt keeps its place.

Long work that is late goes before short work that came after it, as long as that has hardly waited:
the price is a little for many short requests, not much for a few.

Bounds: O(log n) for adding and taking; a withdrawn item is forgotten at once in the counts and
dropped from its heap when it surfaces or when such leftovers are more than half of the heap. An
item that waits for something of its own is counted, and nothing waits behind it.

Refuses to know: engines, limits, clocks.
"""

import heapq
import math
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

# The place of what stands in no heap.
_ASIDE: Final = -1


class Urgency(Enum):
    """Whether work is a short request or part of something long."""

    SHORT = "short"
    LONG = "long"


class QueueItem(Protocol):
    """What the queue reads of a piece of work; `place` is the queue's own, 0 while outside."""

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
        pace_s: By so many seconds an item is put back for each window of its audio before it.
        file_windows: So many windows before it put an item back by nothing.
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
        """Put an item in, at a place number never used before."""
        self.place(item, place)
        self._count(item)

    def add_aside(self, item: ItemT) -> None:
        """Count an item in that does not stand in the line until `place` puts it there."""
        item.place = _ASIDE
        self._count(item)

    def place(self, item: ItemT, place: int) -> None:
        """Put an item that has been counted into the line, where it belongs."""
        item.place = place
        heapq.heappush(self._heap, (self.due(item), place, item))

    def due(self, item: ItemT) -> float:
        """Return the time by which items stand in the line, monotonic seconds."""
        beyond = max(item.windows, item.ahead) - self.file_windows
        return item.enqueued_at + self.pace_s * beyond if beyond > 0.0 else item.enqueued_at

    def _count(self, item: ItemT) -> None:
        self.count += 1
        self.windows += item.windows
        self.audio_s += item.audio_s

    def head(self) -> ItemT | None:
        """Return the item that is first in the line, or None."""
        heap = self._heap
        while heap:
            _, place, item = heap[0]
            if item.place == place:
                return item
            heapq.heappop(heap)
        return None

    def remove(self, item: ItemT) -> None:
        """Take an item out that is in."""
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
            # Rounding errors of a long day of adding and subtracting end here.
            self.audio_s = 0.0


class WorkQueue(Generic[ItemT]):
    """The queue of one model.

    Args:
        ageing_s: Wait in seconds after which long work may go before short work.
        aged_share: Of how many decisions at most one goes to aged long work while short work waits.
            One in four keeps both sides moving even when either alone would fill the fleet.
        proportion: Short work waits no shorter than this part of what long work waits beyond its
            patience and what its length puts it back.
        patience: That, in times that a window takes on the engines at present.
        head_start: Once long work is later than this, in the same times, it goes before short work
            that came after it, each time until that has waited for `turn`. Infinity: never.
        turn: Also in times that a window takes.
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
        """Return the lane an item belongs to."""
        return self.short if item.urgency is Urgency.SHORT else self.long

    def add(self, item: ItemT) -> None:
        """Queue an item; one that is already in stays where it is."""
        if item.place:
            return
        self._places += 1
        self.lane(item).add(item, self._places)

    def add_aside(self, item: ItemT) -> None:
        """Count an item in that is not a head until `line_up`; one that is in stays where it is."""
        if not item.place:
            self.lane(item).add_aside(item)

    def line_up(self, item: ItemT) -> None:
        """Put an item into the line that was added aside; nothing happens to any other."""
        if item.place == _ASIDE:
            self._places += 1
            self.lane(item).place(item, self._places)

    def remove(self, item: ItemT) -> bool:
        """Take an item out, wherever it stands; False if it is not in."""
        if not item.place:
            return False
        self.lane(item).remove(item)
        return True

    def took_short(self) -> None:
        """Count a decision that went to short work."""
        self._since_aged += 1

    def took_aged(self) -> None:
        """Count a decision that went to aged long work."""
        self._since_aged = 0

    def outwaited(self, now: float, window_s: float) -> ItemT | None:
        """Return the long item that has waited out of proportion to short work, or None.

        Args:
            now: Monotonic seconds.
            window_s: What a window takes on the engines at present.
        """
        long = self.long.head()
        short = self.short.head()
        if long is None or short is None:
            return None
        late_s = now - self.long.due(long)
        waits_s = now - short.enqueued_at
        if late_s > self.head_start * window_s and waits_s < min(late_s, self.turn * window_s):
            # A bounded wait for short work: unlike a share of what long work waits, it does not
            # grow with the backlog, where short requests' slowest percent is made.
            return long
        is_due = self.proportion * (late_s - self.patience * window_s) > waits_s
        return long if is_due else None

    def aged(self, now: float) -> ItemT | None:
        """Return the long item that may go before short work now, or None."""
        if self._since_aged < self._aged_share - 1 and self.short.count:
            return None
        head = self.long.head()
        return head if head is not None and now - head.enqueued_at >= self.ageing_s else None
