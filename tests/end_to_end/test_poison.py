"""Uploads that end engines, one after the other: the fleet goes on, and their clients are told."""

from __future__ import annotations

import asyncio

import pytest
from tests.end_to_end.black_holes import POISON, Result, engines, load, upload
from tests.routers import running_router

#: Uploads per second, and one in so many ends engines.
RATE = 25.0
POISONED = 50
SECONDS = 12.0
RESTART_S = 1.0


@pytest.mark.slow
async def test_one_percent_of_poison_is_contained() -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        for engine in made:
            engine.service_s, engine.restart_s = 0.1, RESTART_S
        await load(router, 40)
        loop = asyncio.get_running_loop()
        good: list[asyncio.Task[Result]] = []
        poison: list[asyncio.Task[Result]] = []
        out_since: dict[str, float] = {}
        longest_out_s = 0.0
        began = loop.time()
        number = 0
        while loop.time() - began < SECONDS:
            good.append(asyncio.create_task(upload(router)))
            if number % POISONED == 0:
                poison.append(asyncio.create_task(upload(router, POISON + b"%d" % number)))
            number += 1
            await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
            for engine in router.router.dispatcher.fleet.engines():
                if engine.state.value == "ready":
                    out_since.pop(engine.engine_id, None)
                else:
                    since = out_since.setdefault(engine.engine_id, loop.time())
                    longest_out_s = max(longest_out_s, loop.time() - since)
        answers = await asyncio.gather(*good)
        assert [answer.status for answer in answers if not answer.is_good] == []
        told = await asyncio.gather(*poison)
        assert {answer.status for answer in told} == {502}
        assert max(answer.seconds for answer in told) < 20.0
        # Two each, and seldom a third: one that has just restarted and served nothing yet.
        assert sum(engine.crashes for engine in made) <= 2.5 * len(told)
        assert longest_out_s < RESTART_S + 10.0
        quick = sorted(answer.seconds for answer in answers)
        assert quick[int(0.9 * len(quick))] < 2.0
