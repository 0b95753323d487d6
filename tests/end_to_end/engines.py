"""Simulated engines in a thread of their own, for tests that talk to a router's process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Engines:
    """Engines that run beside the test.

    Attributes:
        handles: The engines; to be touched in their loop only, but for `url`.
        loop: Their event loop.
    """

    handles: list[SimulatedHandle]
    loop: asyncio.AbstractEventLoop

    @property
    def urls(self) -> str:
        """Their addresses as --static-backends takes them."""
        return ",".join(handle.url for handle in self.handles)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in their loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def order(self, index: int = 0, **faults: Any) -> None:
        """Order an engine to misbehave."""
        self.run(self.handles[index].order(**faults))


@contextlib.contextmanager
def engines_beside(count: int = 1, **options: Any) -> Iterator[Engines]:
    """Run engines until the block ends."""
    started: list[Engines] = []
    is_up = threading.Event()
    down: list[asyncio.Event] = []

    async def serve() -> None:
        down.append(asyncio.Event())
        async with contextlib.AsyncExitStack() as stack:
            handles = [
                await stack.enter_async_context(serve_simulated(MODEL, **options))
                for _ in range(count)
            ]
            started.append(Engines(handles, asyncio.get_running_loop()))
            is_up.set()
            await down[0].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    is_up.wait(30)
    engines = started[0]
    try:
        yield engines
    finally:
        engines.loop.call_soon_threadsafe(down[0].set)
        thread.join()
