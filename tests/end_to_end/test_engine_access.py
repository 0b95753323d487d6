"""Engines that do not let the router in: it says so, and no client sees what they answered."""

import pytest
from tests.fake_engine.serving import serve_simulated
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, running_router, until

from vllm_router.scheduling.engine import EngineState


@pytest.mark.parametrize("by_transcribing", [False, True])
@pytest.mark.parametrize("static_models", [(), (MODEL,)])
async def test_with_a_wrong_key_no_engine_is_ever_ready(
    static_models: tuple[str, ...], by_transcribing: bool
) -> None:
    settings = {
        "static_models": static_models,
        "static_backend_health_checks": by_transcribing,
        "engine_api_key": "wrong",
        "is_ready": False,
        "engine_wait_s": 0.0,
    }
    async with (
        serve_simulated(MODEL, time_scale=1000, api_key="right") as engine,
        running_router(engine, **settings) as router,
    ):
        [one] = router.router.dispatcher.fleet.engines()
        await until(lambda: one.last_probe)
        assert (await router.client.get("/ready")).status_code == 503
        [view] = await router.engines()
        assert "401" in view["last_error"]
        assert "--engine-api-key" in view["last_error"]
        answer = await router.upload()
        assert answer.status_code == 503
        assert not engine.log.audio()


async def test_a_key_that_becomes_wrong_takes_the_engine_out_at_its_first_answer() -> None:
    is_right = True

    async def says(heard: Heard) -> Reply:
        return 200, verbose("words")

    settings = {
        "static_models": (MODEL,),
        "static_backend_health_check_interval": 3600,
        "engine_wait_s": 0.0,
    }
    async with (
        parrot(says, lambda: is_right) as url,
        running_router(url, **settings) as router,
    ):
        assert (await router.upload()).status_code == 200
        is_right = False
        answer = await router.upload()
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert error["code"] == "engine_failed"
        assert "it answered 401: check --engine-api-key" in error["message"]
        [one] = router.router.dispatcher.fleet.engines()
        await until(lambda: one.state is EngineState.PROBING)
        assert (await router.client.get("/ready")).status_code == 503
        assert (await router.upload()).status_code == 503


@pytest.mark.parametrize("status", [401, 403, 407])
async def test_an_upload_that_one_engine_denies_goes_to_another(status: int) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as bad,
        serve_simulated(MODEL, time_scale=1000) as good,
        running_router(bad, good, routing_logic="roundrobin") as router,
    ):
        await bad.order(status=status)
        answers = [await router.upload() for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        metrics = await router.metrics()
        assert metrics[f'vllm_router_attempts_total{{engine="{bad.url}",outcome="denied"}}']


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_no_answer_and_its_target_stays_with_us(status: int) -> None:
    head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: http://10.0.0.7:8000/v1\r\n"

    async def redirects(heard: Heard) -> Reply:
        return status, head.encode() + b"Content-Length: 0\r\n\r\n"

    async def says(heard: Heard) -> Reply:
        return 200, verbose("words")

    async with parrot(redirects) as bad:
        async with running_router(bad) as router:
            answer = await router.upload()
            assert answer.status_code == 502
            assert "location" not in answer.headers
            assert "10.0.0.7" not in answer.text
            assert "redirects" in answer.json()["error"]["message"]
        async with parrot(says) as good, running_router(bad, good) as router:
            answers = [await router.upload() for _ in range(4)]
            assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("status", [600, 999])
async def test_an_upload_goes_to_another_engine_where_one_answers_what_is_no_status(
    status: int,
) -> None:
    async def nonsense(heard: Heard) -> Reply:
        return status, f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()

    async def says(heard: Heard) -> Reply:
        return 200, verbose("words")

    async with (
        parrot(nonsense) as bad,
        parrot(says) as good,
        running_router(bad, good, routing_logic="roundrobin") as router,
    ):
        answers = [await router.upload() for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
