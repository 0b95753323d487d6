"""Short work that takes unusually long goes to a second engine too, and the loser stops at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, RunningRouter, field, file, running_router, until

from vllm_router.audio.wav import silence


@pytest.fixture
async def engines() -> AsyncIterator[list[SimulatedHandle]]:
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
    ):
        yield [a, b]


@pytest.fixture
async def router(engines: list[SimulatedHandle]) -> AsyncIterator[RunningRouter]:
    async with running_router(*engines, routing_logic="roundrobin", hedge_after=0.3) as router:
        yield router


def busy(router: RunningRouter) -> set[str]:
    return {e.spec.url for e in router.router.dispatcher.fleet.engines() if e.in_flight}


async def at_rest(router: RunningRouter) -> None:
    await until(lambda: not busy(router), "charges remain")
    spool = router.router.spools[0]
    await until(lambda: not spool.open_uploads, "uploads remain")


async def test_a_hanging_engine_costs_only_the_delay(
    engines: list[SimulatedHandle], router: RunningRouter
) -> None:
    await engines[0].order(hang="answer")
    for _ in range(2):
        answer = await router.upload()
        assert answer.status_code == 200
        assert answer.headers["x-engine-id"] == engines[1].url
    await at_rest(router)
    await until(lambda: engines[0].log.audio()[0].ended_at is not None, "the loser works on")
    metrics = await router.metrics()
    assert metrics['vllm_router_hedges_total{winner="second"}'] >= 1


async def test_a_quick_answer_is_not_hedged(
    engines: list[SimulatedHandle], router: RunningRouter
) -> None:
    for _ in range(5):
        assert (await router.upload()).status_code == 200
    assert sum(len(engine.log.audio()) for engine in engines) == 5


async def test_when_the_second_engine_fails_the_first_still_answers(
    engines: list[SimulatedHandle], router: RunningRouter
) -> None:
    for engine in engines:
        await engine.order(delay_s=0.8)
    waiting = asyncio.create_task(router.upload())
    await until(lambda: bool(busy(router)))
    idle = next(engine for engine in engines if engine.url not in busy(router))
    await idle.order(status=503)
    assert (await waiting).status_code == 200
    await at_rest(router)


async def test_the_share_of_extra_work_is_bounded(
    engines: list[SimulatedHandle], router: RunningRouter
) -> None:
    for engine in engines:
        await engine.order(delay_s=0.5)
    answers = await asyncio.gather(*(router.upload() for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    # A burst of three and one in twenty.
    assert sum(len(engine.log.audio()) for engine in engines) <= 40 + 3 + 2
    await at_rest(router)


async def test_a_client_that_leaves_stops_both(
    engines: list[SimulatedHandle], router: RunningRouter
) -> None:
    for engine in engines:
        await engine.order(hang="answer")
    waiting = asyncio.create_task(
        router.upload(field("model", MODEL), file(silence(1.0)), x_request_id="leaves")
    )
    await until(lambda: len(busy(router)) == 2, "it was not hedged")
    waiting.cancel()
    await at_rest(router)
    for engine in engines:
        (request,) = engine.log.audio()
        await until(lambda request=request: request.ended_at is not None, "an engine works on")
