"""Engines that refuse quickly, or say nothing, lose next to no uploads, whatever they answer."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.end_to_end.black_holes import GARBAGE, HOLES, Engine, engines, load, lost, upload
from tests.end_to_end.test_long import talk
from tests.routers import MODEL, RunningRouter, field, file, running_router, until

#: Enough for a share of one percent to be more than one upload.
UPLOADS = 200
#: Every hole is tried in each of these ways, which takes minutes; one way is enough at each change.
WAYS = [
    pytest.param(2, False, id="2-uploads"),
    *(
        pytest.param(bad, is_everywhere, id=f"{bad}-{where}", marks=pytest.mark.slow)
        for bad, is_everywhere, where in (
            (1, False, "uploads"),
            (1, True, "everywhere"),
            (2, True, "everywhere"),
        )
    ),
]


async def turned(
    router: RunningRouter, made: list[Engine], hole: str, bad: int, *, is_everywhere: bool = False
) -> None:
    """Have some engines turn bad in the midst of a load, and look at what is lost."""
    loop = asyncio.get_running_loop()
    await load(router, 8 * len(made))
    began = loop.time()
    for engine in made[:bad]:
        engine.hole, engine.is_everywhere = hole, is_everywhere
    results = await load(router, UPLOADS)
    assert len(lost(results)) <= UPLOADS // 100, [result.status for result in lost(results)]
    assert not [result for result in lost(results) if result.at > began + 3]


@pytest.mark.parametrize(("bad", "is_everywhere"), WAYS)
@pytest.mark.parametrize("hole", HOLES)
async def test_engines_that_turn_bad_lose_one_percent_at_most(
    hole: str, bad: int, is_everywhere: bool
) -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        await turned(router, made, hole, bad, is_everywhere=is_everywhere)


@pytest.mark.slow
@pytest.mark.parametrize("hole", ["500", "400", "404", "429", "reset", "hang"])
async def test_three_of_eight_lose_no_more(hole: str) -> None:
    async with engines(8) as made, running_router(*[e.url for e in made]) as router:
        await turned(router, made, hole, 3)


@pytest.mark.parametrize("hole", ["500", "422", "reset"])
async def test_a_single_client_does_not_meet_two_broken_engines_again_and_again(hole: str) -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        await load(router, 40)
        for engine in made[:2]:
            engine.hole = hole
        assert len(lost(await load(router, 100, clients=1))) <= 1


@pytest.mark.parametrize(
    ("hole", "status"),
    [
        ("500", 500),
        ("400", 400),
        ("404", 404),
        ("422", 422),
        ("429", 429),
        ("503, retry later", 429),
        ("503", 502),
        ("401", 502),
        ("redirect", 502),
        ("200 with HTML", 502),
        ("reset", 502),
    ],
)
async def test_where_all_engines_are_alike_clients_are_told_soon(hole: str, status: int) -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        await load(router, 32)
        for engine in made:
            engine.hole = hole
        results = await load(router, 24)
        assert {result.status for result in results} == {status}
        assert max(result.seconds for result in results) < 6.0
        for result in results:
            error = json.loads(result.body)["error"]
            assert set(error) >= {"message", "type", "param", "code"}
            assert "10.0.0.7" not in str(error)
        for engine in made:
            engine.hole = None
        async with asyncio.timeout(20):
            while not (await upload(router)).is_good:
                await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("hole", ["500", "404", "429", "reset"])
async def test_an_engine_that_has_recovered_is_in_service_again(hole: str) -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        await load(router, 32)
        made[0].hole = hole
        assert len(lost(await load(router, UPLOADS))) <= 1
        made[0].hole = None
        [engine] = [
            e for e in router.router.dispatcher.fleet.engines() if e.spec.url == made[0].url
        ]
        async with asyncio.timeout(35):
            while engine.state.value != "ready" or engine.is_on_trial or not engine.models:
                assert not lost(await load(router, 16))
                await asyncio.sleep(0.2)


async def test_broken_uploads_take_no_engine_out_and_do_not_double_the_load() -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        await load(router, 32)
        before = sum(engine.uploads for engine in made)
        results = await load(router, 300, mark=lambda number: GARBAGE if number % 2 else b"")
        assert sorted({result.status for result in results}) == [200, 400]
        assert len(lost(results)) == 150
        assert sum(engine.uploads for engine in made) - before <= 1.5 * 300
        metrics = await router.metrics()
        assert not [name for name, value in metrics.items() if "ejections_total" in name and value]


async def test_an_engine_that_denies_uploads_says_so_and_is_not_ready() -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        await load(router, 32)
        made[0].hole = "401"
        assert not lost(await load(router, UPLOADS))
        views = {view["url"]: view for view in await router.engines()}
        assert views[made[0].url]["state"] != "ready"
        assert "--engine-api-key" in views[made[0].url]["last_error"]


async def test_a_model_that_an_engine_does_not_have_is_withdrawn_from_it() -> None:
    async with engines(2) as made, running_router(*[e.url for e in made]) as router:
        await load(router, 32)
        made[0].hole = "404"
        assert not lost(await load(router, 50))
        views = {view["url"]: view for view in await router.engines()}
        assert views[made[0].url]["models"] == []
        assert "404" in views[made[0].url]["last_error"]


@pytest.mark.parametrize("hole", ["500", "400", "401"])
async def test_a_long_file_does_not_fail_for_two_broken_engines(hole: str) -> None:
    async with engines(4) as made, running_router(*[e.url for e in made]) as router:
        for engine in made[:2]:
            engine.hole = hole
        for _ in range(3):
            answer = await router.upload(field("model", MODEL), file(talk(300.0)))
            assert answer.status_code == 200, answer.text
            assert answer.json()["text"].count("some words") >= 5
        await until(lambda: not router.router.dispatcher.slots.waiting)
