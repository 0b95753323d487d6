"""A router that stands still for some seconds holds that time against no engine."""

import asyncio
import time

from tests.end_to_end.test_hung_engines import engine_process, twelve
from tests.routers import running_router


async def test_engines_that_answered_while_the_router_stood_still_stay() -> None:
    """Each has more answers waiting in the sockets than it takes for an ejection."""
    with engine_process() as one, engine_process() as other:
        async with running_router(one.url, other.url) as router:
            for _ in range(5):
                await twelve(router)
            engines = list(router.router.dispatcher.fleet.engines())
            before = [engine.curve.window_s(1.0) for engine in engines]
            uploads = asyncio.create_task(twelve(router))
            await asyncio.sleep(0.1)
            time.sleep(7.0)  # noqa: ASYNC251
            await uploads
            await twelve(router)
            assert [engine.state.value for engine in engines] == ["ready"] * 2
            assert [engine.ejections for engine in engines] == [0] * 2
            for engine, usual_s in zip(engines, before, strict=True):
                assert engine.curve.window_s(1.0) < 3.0 * usual_s
