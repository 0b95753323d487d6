"""What runs beside answering: a failure is logged and counted there, waited out, and work goes on.

Promises: no exception in one loop ends another, or the process. The first failure of a kind is
logged with its traceback, those after it in one line, at most one every few seconds. Waits between
failures in a row have full jitter and end at half a minute.

Bounds: for each loop one small record. Refuses to know what the loops do.
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

#: The first wait is at most this long: most of what fails was bad luck.
BASE_S: Final = 1.0
#: The longest wait: an engine that comes, or a key that is revoked, is not missed for longer.
CAP_S: Final = 30.0
#: Even the luckiest draw waits this long, so that a loop that always fails costs next to nothing.
LEAST_S: Final = 0.1
#: After so long without a failure the next one is the first again.
FORGIVEN_S: Final = 300.0
#: The same failure is told at most this often.
QUIET_S: Final = 10.0


class BackgroundLoop(StrEnum):
    """What is kept going; its value is the label `loop` of the metric."""

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
    # Timers, and tasks that nobody waits for.
    CALLBACKS = "callbacks"


@dataclass(slots=True)
class _Record:
    failures: int = 0
    failed_at: float = 0.0
    told: tuple[str, str, int] | None = None
    told_at: float = 0.0
    untold: int = 0


class Background:
    """Keeps background loops going.

    Args:
        count: Told the name of a loop that has failed.
        rng: Spreads the waits.
        now: Monotonic seconds.
        sleep: Waits.
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
        """Run a loop until it ends by itself, and begin it again whenever it fails."""
        while True:
            try:
                await run()
            except Exception as e:
                wait_s = self.failed(loop, e)
            except asyncio.CancelledError as e:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody has cancelled this task: something that it awaited was.
                wait_s = self.failed(loop, e)
            else:
                return
            await self._sleep(wait_s)

    def failed(self, loop: BackgroundLoop, error: BaseException) -> float:
        """Log and count a failure.

        Returns:
            How many seconds to wait before going on.
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
            log.error("the loop %s failed, and goes on", loop.value, exc_info=error)
        elif now - record.told_at >= QUIET_S:
            log.error(
                "the loop %s failed again, %d times since last told: %s",
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
        """Take what an event loop's callback or forgotten task has raised; see `asyncio`.

        What happens on a connection is left to the loop: it closes that connection.
        """
        error = context.get("exception")
        if isinstance(error, Exception) and "transport" not in context:
            self.failed(BackgroundLoop.CALLBACKS, error)
        else:
            loop.default_exception_handler(context)


def _kind(error: BaseException) -> tuple[str, str, int]:
    """Return what tells one fault from another: the error's type, and where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__, "", 0
    return type(error).__name__, trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
