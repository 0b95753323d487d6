"""Background loops: each failure is logged and counted, then the loop restarts after a delay.

Promises: an exception in one loop ends neither another loop nor the process. The first failure of a
kind is logged with its traceback; repetitions are logged in one line, at most one every few
seconds. Delays between consecutive failures have full jitter and are limited to half a minute.

Bounds: one small record per loop. Does not know what the loops do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Final

from vllm_router.backoff import full_jitter

log = logging.getLogger("vllm_router")

#: The first delay is at most this long: most failures are transient.
BASE_S: Final = 1.0
#: The longest delay, and so the longest time to miss a new engine or a revoked key.
CAP_S: Final = 30.0
#: The shortest delay, so that a loop that always fails costs next to nothing.
LEAST_S: Final = 0.1
#: After this long without a failure, the next one counts as the first.
FORGIVEN_S: Final = 300.0
#: The same failure is logged at most this often.
QUIET_S: Final = 10.0


class BackgroundLoop(StrEnum):
    """A background loop; the value is the metric's `loop` label."""

    DISCOVERY = "discovery"
    PROBES = "probes"
    READINGS = "readings"
    SWEEP = "sweep"
    HEARTBEAT = "heartbeat"
    KEY_FILE = "key_file"
    STATS_TABLE = "stats_table"
    ACCESS_LOG = "access_log"
    TRACES = "traces"
    SIBLINGS = "siblings"
    HANDOVER = "handover"
    # Timers, and tasks that nothing awaits.
    CALLBACKS = "callbacks"


@dataclass(slots=True)
class _Record:
    failures: int = 0
    failed_at: float = 0.0
    told: tuple[str, str, int] | None = None
    told_at: float = 0.0
    untold: int = 0


class Background:
    """Keeps background loops running.

    Args:
        count: Called with the name of a loop that has failed.
        rng: Randomizes the delays.
        now: Monotonic seconds.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        count: Callable[[str], None],
        rng: Random,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._count = count
        self._rng = rng
        self._now = now
        self._sleep = sleep
        self._records: dict[BackgroundLoop, _Record] = {}

    async def keep(self, loop: BackgroundLoop, run: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until it returns, and restart it whenever it fails."""
        while True:
            try:
                await run()
            except Exception as e:
                wait_s = self.failed(loop, e)
            except asyncio.CancelledError as e:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # This task was not cancelled: something that it awaited was.
                wait_s = self.failed(loop, e)
            else:
                return
            await self._sleep(wait_s)

    def failed(self, loop: BackgroundLoop, error: BaseException) -> float:
        """Log and count a failure.

        Returns:
            Seconds to wait before the loop restarts.
        """
        self._count(loop.value)
        record = self._records.setdefault(loop, _Record())
        now = self._now()
        if now - record.failed_at >= FORGIVEN_S:
            record.failures, record.told = 0, None
        record.failures += 1
        record.failed_at = now
        kind = _kind(error)
        if kind != record.told:
            record.told, record.told_at, record.untold = kind, now, 0
            log.error("background loop %s failed; it will restart", loop.value, exc_info=error)
        elif now - record.told_at >= QUIET_S:
            log.error(
                "background loop %s failed again, %d times since last logged: %s",
                loop.value,
                record.untold + 1,
                _said(error),
            )
            record.told_at, record.untold = now, 0
        else:
            record.untold += 1
        wait_s = full_jitter(record.failures, self._rng, base_s=BASE_S, cap_s=CAP_S)
        return max(LEAST_S, wait_s)

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception from an event loop's callback or an unawaited task; see `asyncio`.

        Exceptions on a connection are left to the event loop, which closes that connection.
        """
        error = context.get("exception")
        if isinstance(error, Exception) and "transport" not in context:
            self.failed(BackgroundLoop.CALLBACKS, error)
        else:
            loop.default_exception_handler(context)


def _kind(error: BaseException) -> tuple[str, str, int]:
    """Return what identifies a fault: the error's type and the place where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__, "", 0
    return type(error).__name__, trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
