"""A time limit for a block, cheaper than `asyncio.timeout` when used often.

Before Python 3.12, `asyncio.timeout` looks up the running loop four times, each with a system call.
With a thousand engines to query, that was a tenth of an idle router's work. The semantics are the
same.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class TimeLimit:
    """Cancels its block after a time limit and then raises TimeoutError.

    Args:
        loop: The running loop.
        seconds: Time limit from the start of the block.
    """

    __slots__ = ("_cancelling", "_is_over", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        """Start the timer."""
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
        """Stop the timer; raise TimeoutError if only the limit cancelled the block."""
        self._timer.cancel()
        if not self._is_over:
            return
        # External cancellation takes precedence.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
