"""Following a source of engines: the picture that its changes add up to."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

from vllm_router.discovery.source import Discovery
from vllm_router.scheduling.changes import Appeared, Change, Listing, Withdrawn
from vllm_router.scheduling.engine import EngineSpec


class Followed:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.engines: dict[str, EngineSpec] = {}

    def take(self, change: Change) -> None:
        self.changes.append(change)
        match change:
            case Listing(specs):
                self.engines = {spec.engine_id: spec for spec in specs}
            case Appeared(spec):
                self.engines[spec.engine_id] = spec
            case Withdrawn(engine_id):
                del self.engines[engine_id]

    @property
    def listings(self) -> int:
        return sum(isinstance(change, Listing) for change in self.changes)

    @property
    def urls(self) -> list[str]:
        return sorted(spec.url for spec in self.engines.values())

    async def until(self, is_so: Callable[[], bool], within_s: float = 30.0) -> None:
        await until(is_so, within_s)


async def until(is_so: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def following(discovery: Discovery) -> AsyncIterator[Followed]:
    seen = Followed()

    async def follow() -> None:
        async with aclosing(discovery.changes()) as changes:
            async for change in changes:
                seen.take(change)

    task = asyncio.create_task(follow())
    try:
        yield seen
        assert not task.done() or task.exception() is None
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class QuickTime:
    """A clock that jumps over waits; it remembers them."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.skipped_s = 0.0

    def clock(self) -> float:
        return time.monotonic() + self.skipped_s

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.skipped_s += seconds
        await asyncio.sleep(0.001)
