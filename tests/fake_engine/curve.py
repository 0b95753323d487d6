"""The service curve of a GPU: it works on many windows at a time, each slower the more there are.

One H200 running whisper-large-v3 finishes 57.5 * c / (c + 18.5) windows of 30 s a second while c
windows are in service (measured from 1 to 128). Every window gets an equal share, so that progress
is one clock for all of them: it advances at 57.5 / (c + 18.5) per second, and a window that starts
when it shows p is done when it shows p + 1.

Bounds: one heap entry per admitted group of windows; O(log n) for each start and end.
"""

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CurveShape:
    """The parameters of the curve.

    `peak_windows_per_s` is what is approached with very many windows in service, `half_at` the
    number of windows in service at which half of that is reached.
    """

    peak_windows_per_s: float = 57.5
    half_at: float = 18.5


# uvloop's clock and timers tick in milliseconds: work that is due within one counts as done, or the
# loop would spin until the tick.
CLOCK_S = 0.001

# By kind of GPU. Only h200 is measured; the others keep its shape at a plausible fraction.
NAMED_CURVES = {
    "h200": CurveShape(57.5, 18.5),
    "h100": CurveShape(28.0, 10.0),
    "a100": CurveShape(17.0, 8.0),
    "l4": CurveShape(5.0, 3.0),
    "t4": CurveShape(2.2, 1.5),
}


@dataclass(slots=True)
class Job:
    """The windows of one request on their way through the engine."""

    waiting: int
    work: float
    done: asyncio.Future[None]
    running: int = 0
    started_at: float | None = None
    is_over: bool = False


class Curve:
    """Windows in service, sharing the engine's speed.

    Args:
        shape: The service curve.
        speed: How many times as fast as the curve says (the time scale).
        max_running: Windows in service at the same time; further ones wait, as in vLLM, whose
            scheduler takes 256 sequences (`--max-num-seqs`).
    """

    def __init__(
        self, shape: CurveShape | None = None, speed: float = 1.0, max_running: int = 256
    ) -> None:
        self._shape = shape or CurveShape()
        self._speed = speed
        self._max_running = max_running
        self._loop = asyncio.get_running_loop()
        self._progress = 0.0
        self._updated_at = self._loop.time()
        self._ends: list[tuple[float, int, int, Job]] = []
        self._sequence = 0
        self._queue: deque[Job] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.running = 0
        self.waiting = 0

    def set_speed(self, speed: float) -> None:
        """Change the speed from now on; 0 stands still."""
        self._advance()
        self._speed = speed
        self._schedule()

    async def run(self, windows: int, work: float = 1.0) -> float:
        """Run windows at the same time.

        Args:
            windows: How many.
            work: The part of each that is done; a streamed window is run in several parts.

        Returns:
            Seconds that the first of them waited for its place.
        """
        arrived_at = self._loop.time()
        job = Job(waiting=windows, work=work, done=self._loop.create_future())
        self._advance()
        self.waiting += windows
        self._queue.append(job)
        self._admit()
        self._schedule()
        try:
            await job.done
        finally:
            if not job.done.done() or job.done.cancelled():
                self._withdraw(job)
        return max(0.0, (job.started_at or arrived_at) - arrived_at)

    def _withdraw(self, job: Job) -> None:
        """Free the windows of a request whose client left."""
        self._advance()
        job.is_over = True
        self.running -= job.running
        self.waiting -= job.waiting
        job.running = job.waiting = 0
        self._admit()
        self._schedule()

    def _rate(self) -> float:
        """Return the progress of each window per second."""
        if self.running == 0:
            return 0.0
        shape = self._shape
        return self._speed * shape.peak_windows_per_s / (self.running + shape.half_at)

    def _advance(self) -> None:
        now = self._loop.time()
        self._progress += (now - self._updated_at) * self._rate()
        self._updated_at = now

    def _admit(self) -> None:
        while self._queue and self.running < self._max_running:
            job = self._queue[0]
            count = min(job.waiting, self._max_running - self.running)
            if count == job.waiting:
                self._queue.popleft()
            if count == 0:
                continue
            job.waiting -= count
            job.running += count
            job.started_at = job.started_at or self._updated_at
            self.waiting -= count
            self.running += count
            self._sequence += 1
            heapq.heappush(self._ends, (self._progress + job.work, self._sequence, count, job))

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._ends and self._ends[0][3].is_over:
            heapq.heappop(self._ends)
        rate = self._rate()
        if self._ends and rate > 0:
            delay = max(0.0, (self._ends[0][0] - self._progress) / rate)
            self._timer = self._loop.call_later(delay, self._end_due)

    def _end_due(self) -> None:
        self._timer = None
        self._advance()
        due = self._progress + CLOCK_S * self._rate() + 1e-9
        while self._ends and self._ends[0][0] <= due:
            _, _, count, job = heapq.heappop(self._ends)
            if job.is_over:
                continue
            job.running -= count
            self.running -= count
            if not job.running and not job.waiting:
                job.is_over = True
                if not job.done.done():
                    job.done.set_result(None)
        self._admit()
        self._schedule()
