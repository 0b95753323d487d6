"""Wait for an engine to recover when none is ready.

An engine that restarts, loses its connection or is ejected may be back within seconds, so an upload
that has already arrived waits. It does not wait in vain: if every engine has been out for long or
refuses its first probe, the client gets the error at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from vllm_router.scheduling.engine import EngineState, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Ticket

#: An engine that fails its trials is not worth waiting for; a failed trial causes no transition.
_LOOK_AGAIN_S: Final = 0.5


class EngineWait:
    """Holds work while no engine is ready.

    Args:
        fleet: Knows which engines may recover.
        now: Monotonic seconds.
        wait_s: Maximum wait of a piece of work, in seconds; 0: none.
    """

    def __init__(self, fleet: Fleet, now: Callable[[], float], wait_s: float) -> None:
        self._fleet = fleet
        self._now = now
        self._wait_s = wait_s
        self._waiting: dict[asyncio.Future[None], None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def until(self) -> float:
        """Return the deadline, in monotonic seconds, of a wait that begins now."""
        return self._now() + self._wait_s

    async def is_back(self, ticket: Ticket, until: float) -> bool:
        """Wait for a ready engine that has not failed on the work; False: none will be ready."""
        while not self._fleet.is_ready_for(ticket):
            now = self._now()
            if now >= until or not self._fleet.may_recover_for(ticket, now):
                return False
            change = asyncio.get_running_loop().create_future()
            self._waiting[change] = None
            try:
                async with asyncio.timeout(min(until - now, _LOOK_AGAIN_S)):
                    await change
            except TimeoutError:
                continue
            finally:
                self._waiting.pop(change, None)
        return True

    def changed(self, transition: Transition) -> None:
        """Wake waiters if an engine became ready or failed its first probe."""
        if transition.after is EngineState.READY or transition.before is EngineState.DISCOVERED:
            for change in self._waiting:
                if not change.done():
                    change.set_result(None)
