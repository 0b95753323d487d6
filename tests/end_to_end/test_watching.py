"""Engines are probed before first use and after; three bad answers take one out, one brings it
back, and a busy one is not a dead one."""

import hashlib

import pytest
from tests.fake_engine.request_log import LoggedRequest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, running_router, until

from vllm_router.audio.wav import silence

BY_TRANSCRIBING = {"static_backend_health_checks": True}


def probes(engine: SimulatedHandle) -> list[LoggedRequest]:
    return [one for one in engine.log if one.path == "/health"]


async def test_by_default_engines_are_asked_for_their_health() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine):
        await until(lambda: len(probes(engine)) >= 3)
        assert engine.log.audio() == []


async def test_a_probe_transcribes_a_tenth_of_a_second_of_silence_with_the_engines_key() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000, api_key="secret") as engine,
        running_router(engine, engine_api_key="secret", **BY_TRANSCRIBING),
    ):
        await until(lambda: len(engine.log.audio()) >= 2)
        probe = engine.log.audio()[0]
        assert probe.path == "/v1/audio/transcriptions"
        assert ("model", MODEL.encode()) in probe.fields
        assert probe.header("authorization") == "Bearer secret"
        assert (probe.header("content-type") or "").startswith("multipart/form-data; boundary=")
        assert probe.file is not None
        assert probe.file.sha256 == hashlib.sha256(silence(0.1)).hexdigest()
        assert probe.outcome == "200"


async def test_a_wrong_key_for_engines_is_told_where_engines_are_shown() -> None:
    async with (
        serve_simulated(MODEL, api_key="secret") as engine,
        running_router(engine, is_ready=False) as router,
    ):
        fleet = router.router.dispatcher.fleet
        await until(lambda: any(e.last_error for e in fleet.engines()))
        [view] = await router.engines()
        assert "--engine-api-key" in view["last_error"]


async def test_all_engines_are_probed_at_once_and_none_waits_for_another() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as well,
        serve_simulated(MODEL, time_scale=1000) as other,
        serve_simulated(MODEL) as hung,
    ):
        await hung.order(hang="answer", everywhere=True)
        settings = {"static_backend_health_check_timeout_seconds": 30, **BY_TRANSCRIBING}
        async with running_router(hung, well, other, is_ready=False, **settings) as router:
            fleet = router.router.dispatcher.fleet
            await until(lambda: sum(e.state.value == "ready" for e in fleet.engines()) == 2)
            assert all(one.ended_at is None for one in hung.log)


async def test_an_engine_that_hangs_is_found_by_transcribing_and_not_by_its_health() -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        quick = {"static_backend_health_check_timeout_seconds": 0.1}
        async with running_router(engine, **quick) as router:
            await engine.order(hang="answer")
            count = len(probes(engine))
            await until(lambda: len(probes(engine)) > count + 4)
            assert router.router.dispatcher.fleet.is_ready()
        await engine.restart()
        async with running_router(engine, **quick, **BY_TRANSCRIBING) as router:
            await engine.order(hang="answer")
            await until(lambda: not router.router.dispatcher.fleet.is_ready())


async def test_two_strikes_are_not_three() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as router:
        # Of each probe's two questions the first to fail ends it.
        await engine.order(status=500, times=2, everywhere=True)
        count = len(engine.log)
        await until(lambda: len(engine.log) > count + 12)
        [one] = router.router.dispatcher.fleet.engines()
        assert one.state.value == "ready"
        assert (await router.metrics()).get(
            f'vllm_router_engine_state{{engine="{engine.url}",state="ready"}}'
        ) == 1


async def test_three_strikes_take_out_and_one_good_probe_brings_back() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as router:
        fleet = router.router.dispatcher.fleet
        await engine.order(health_status=500)
        await until(lambda: not fleet.is_ready())
        [one] = fleet.engines()
        assert one.state.value == "probing"
        await engine.restart()
        await until(fleet.is_ready)


async def test_busy_is_not_dead() -> None:
    """Every probe times out, and clients are answered all the same: the engine stays."""
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        settings = {"static_backend_health_check_timeout_seconds": 0.1}
        async with running_router(engine, **settings) as router:
            [one] = router.router.dispatcher.fleet.engines()
            await engine.order(delay_s=0.3, everywhere=True)
            count = len(engine.log)
            while len(engine.log) < count + 16:
                assert (await router.upload()).status_code == 200
            assert one.state.value == "ready"
            # Nobody asks it for words any more: now it is for the probes to say.
            one.last_ok_at = None
            await until(lambda: one.state.value == "probing")


async def test_load_is_read_from_every_rank() -> None:
    async with serve_simulated(MODEL) as engine:
        await engine.order(
            metrics="\n".join(
                [
                    'vllm:num_requests_running{engine="0",model_name="m"} 3.0',
                    'vllm:num_requests_running{engine="1",model_name="m"} 4.0',
                    'vllm:num_requests_waiting{engine="0",model_name="m"} 5.0',
                    'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25',
                    "",
                ]
            )
        )
        async with running_router(engine) as router:
            [one] = router.router.dispatcher.fleet.engines()
            await until(lambda: one.stats is not None)
            [view] = await router.engines()
            assert (view["running"], view["waiting"]) == (7, 5)
            metrics = await router.metrics()
            assert metrics[f'vllm_router_engine_running{{engine="{engine.url}"}}'] == 7
            assert metrics[f'vllm_router_engine_waiting{{engine="{engine.url}"}}'] == 5
            assert metrics[f'vllm_router_engine_cache_usage{{engine="{engine.url}"}}'] == 0.25


@pytest.mark.parametrize("text", ["", "rubbish {{{", "vllm:num_requests_running{ 1"])
async def test_an_engine_without_metrics_serves_all_the_same(text: str) -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        await engine.order(metrics=text)
        async with running_router(engine) as router:
            await until(lambda: any(one.path == "/metrics" for one in engine.log))
            assert (await router.upload()).status_code == 200
