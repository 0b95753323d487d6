"""Waiting for an engine to come back where none is ready.

Engines restart, are cut off for a second, are ejected for one: an upload that has come all the way
here can wait as long. It does not wait for what is not coming: where every engine has been out for
long, or refuses its first probe, the client is told at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from vllm_router.scheduling.engine import EngineState, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Ticket

#: An engine that fails its trials is not worth waiting for, and ends its trial without a change.
_LOOK_AGAIN_S: Final = 0.5


class EngineWait:
    """Has work wait for an engine that is out.

    Args:
        fleet: Knows which engines may come back.
        now: Monotonic seconds.
        wait_s: How long a piece of work waits at most, in seconds; 0: not at all.
    """

    def __init__(self, fleet: Fleet, now: Callable[[], float], wait_s: float) -> None:
        self._fleet = fleet
        self._now = now
        self._wait_s = wait_s
        self._waiting: dict[asyncio.Future[None], None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def until(self) -> float:
        """Return until when work may wait that begins to wait now, monotonic seconds."""
        return self._now() + self._wait_s

    async def is_back(self, ticket: Ticket, until: float) -> bool:
        """Wait until an engine is ready that has not failed on the work; False: none will be."""
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
        """Take a change of an engine in: one that is ready, or one whose first probe has failed."""
        if transition.after is EngineState.READY or transition.before is EngineState.DISCOVERED:
            for change in self._waiting:
                if not change.done():
                    change.set_result(None)
