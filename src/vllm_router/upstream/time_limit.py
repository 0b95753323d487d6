"""A bound on how long a block may take, cheaper than `asyncio.timeout` where there are many.

Before Python 3.12 that asks four times which loop runs, each time by a system call; with a thousand
engines to ask, that was a tenth of what an idle router did. The rules are the same.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class TimeLimit:
    """Cancels what its block awaits once the time is over, and then raises TimeoutError.

    Args:
        loop: The running loop.
        seconds: From the block's beginning.
    """

    __slots__ = ("_cancelling", "_is_over", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        """Begin."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._loop.call_later(self._seconds, self._end)

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; raise TimeoutError if the block was cancelled for its time and nothing else."""
        self._timer.cancel()
        if not self._is_over:
            return
        # Another's wish to cancel the task goes before.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
