"""Which engine takes what: policies, draining, sleeping engines, refusals when too much waits."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, RunningRouter, field, file, running_router, until

from vllm_router.audio.wav import silence

ADMIN = {"authorization": "Bearer admin-secret"}


@pytest.fixture
async def engines() -> AsyncIterator[list[SimulatedHandle]]:
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
        serve_simulated(MODEL, time_scale=1000) as c,
    ):
        yield [a, b, c]


def counts(engines: list[SimulatedHandle]) -> list[int]:
    return [len(engine.log.audio()) for engine in engines]


@pytest.mark.parametrize(
    "policy", ["least-loaded", "roundrobin", "least-requests", "two-choices", "session"]
)
async def test_every_policy_serves(engines: list[SimulatedHandle], policy: str) -> None:
    async with running_router(*engines, routing_logic=policy, session_key="X-Session") as router:
        answers = await asyncio.gather(*(router.upload() for _ in range(12)))
        assert {answer.status_code for answer in answers} == {200}
        assert sum(counts(engines)) == 12
        if policy == "roundrobin":
            assert counts(engines) == [4, 4, 4]


async def test_a_session_keeps_to_one_engine(engines: list[SimulatedHandle]) -> None:
    async with running_router(*engines, routing_logic="session", session_key="X-Session") as router:
        seen = Counter[str]()
        for session in "abcdefghijkl":
            answers = [await router.upload(X_Session=session) for _ in range(3)]
            [engine] = {answer.headers["x-engine-id"] for answer in answers}
            seen[engine] += 1
        assert len(seen) > 1
        assert engines[0].log.audio()[0].header("x-session") in set("abcdefghijkl")


async def test_the_least_loaded_engine_is_the_one_without_work(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(*engines[:2]) as router:
        for engine in engines[:2]:
            await engine.order(delay_s=30)
        tasks = [asyncio.create_task(router.upload()) for _ in range(2)]
        await until(lambda: counts(engines) == [1, 1, 0])
        for task in tasks:
            task.cancel()


class TestDraining:
    async def test_is_closed_without_an_admin_key(self, engines: list[SimulatedHandle]) -> None:
        async with running_router(engines[0]) as router:
            answer = await order(router, engines[0].url, "drain", {})
            assert answer.status_code == 403
            assert "--admin-key" in answer.json()["error"]["message"]

    @pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer clients-key"}])
    async def test_needs_the_admin_key(
        self, engines: list[SimulatedHandle], headers: dict[str, str]
    ) -> None:
        async with running_router(
            engines[0], admin_key="admin-secret", api_key="clients-key"
        ) as router:
            assert (await order(router, engines[0].url, "drain", headers)).status_code == 401

    async def test_gives_no_new_work_and_lets_the_old_finish(
        self, engines: list[SimulatedHandle]
    ) -> None:
        async with running_router(*engines[:2], admin_key="admin-secret") as router:
            for engine in engines[:2]:
                await engine.order(delay_s=0.5)
            uploads = [asyncio.create_task(router.upload()) for _ in range(4)]
            await until(lambda: sum(counts(engines)) == 4)
            answer = await order(router, engines[0].url, "drain", ADMIN)
            assert answer.status_code == 200
            assert answer.json()["state"] == "draining"
            assert [(await upload).status_code for upload in uploads] == [200] * 4
            before = counts(engines)
            for _ in range(4):
                assert (await router.upload()).status_code == 200
            assert counts(engines)[0] == before[0]
            answer = await order(router, engines[0].url, "resume", ADMIN)
            assert answer.json()["state"] in ("probing", "ready")
            fleet = router.router.dispatcher.fleet
            await until(lambda: all(e.state.value == "ready" for e in fleet.engines()))

    async def test_of_an_unknown_engine_is_a_404(self, engines: list[SimulatedHandle]) -> None:
        async with running_router(engines[0], admin_key="admin-secret") as router:
            answer = await order(router, "http://nobody", "resume", ADMIN)
            assert answer.status_code == 404
            assert "/engines" in answer.json()["error"]["message"]


async def order(
    router: RunningRouter, engine_id: str, word: str, headers: dict[str, str]
) -> httpx.Response:
    return await router.client.post(f"/engines/{engine_id}/{word}", headers=headers)


async def test_too_much_waiting_audio_is_a_429_with_retry_after(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(engines[0], engine_max_windows=1, max_queue_audio_s=5) as router:
        await engines[0].order(delay_s=30)
        tasks = [
            asyncio.create_task(router.upload(field("model", MODEL), file(silence(3.0))))
            for _ in range(2)
        ]
        await until(lambda: router.router.dispatcher.slots.waiting == 1)
        answer = await router.upload(field("model", MODEL), file(silence(3.0)))
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        metrics = await router.metrics()
        waiting = f'{{model="{MODEL}",urgency="short"}}'
        assert metrics["vllm_router_queue_requests" + waiting] == 1
        assert metrics["vllm_router_queue_audio_seconds" + waiting] == 3
        for task in tasks:
            task.cancel()
        # A client that leaves is out of the queue.
        await until(lambda: router.router.dispatcher.slots.waiting == 0)


async def test_waiting_too_long_is_a_429(engines: list[SimulatedHandle]) -> None:
    async with running_router(engines[0], engine_max_windows=1, max_queue_wait_s=1) as router:
        await engines[0].order(delay_s=30)
        first = asyncio.create_task(router.upload())
        await until(lambda: counts(engines)[0] == 1)
        answer = await router.upload()
        assert answer.status_code == 429
        assert "retry-after" in answer.headers
        first.cancel()


async def test_a_limit_of_windows_is_kept(engines: list[SimulatedHandle]) -> None:
    async with running_router(engines[0], engine_max_windows=2) as router:
        await engines[0].order(delay_s=0.3)
        tasks = [asyncio.create_task(router.upload()) for _ in range(5)]
        await until(lambda: counts(engines)[0] == 2 and router.router.dispatcher.slots.waiting == 3)
        assert [(await task).status_code for task in tasks] == [200] * 5
        waits = await router.metrics()
        name = f'vllm_router_queue_wait_seconds_count{{model="{MODEL}",urgency="short"}}'
        assert waits[name] == 5


async def test_a_sleeping_engine_gets_no_work_until_it_wakes(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(*engines[:2]) as router:
        fleet = router.router.dispatcher.fleet
        await engines[0].order(sleeping=True)
        await until(lambda: "sleeping" in {e.state.value for e in fleet.engines()})
        for _ in range(4):
            assert (await router.upload()).status_code == 200
        assert counts(engines)[0] == 0
        await engines[0].restart()
        await until(lambda: all(e.state.value == "ready" for e in fleet.engines()))


async def test_engines_serve_their_own_models_only(engines: list[SimulatedHandle]) -> None:
    async with (
        serve_simulated("other/model", time_scale=1000) as other,
        running_router(engines[0], other) as router,
    ):
        for _ in range(3):
            answer = await router.upload(field("model", "other/model"), file(silence(1.0)))
            assert answer.headers["x-engine-id"] == other.url
            assert (await router.upload()).headers["x-engine-id"] == engines[0].url
