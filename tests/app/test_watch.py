"""Following engines as they come, change and go; probing itself is tested end to end."""

import asyncio
from pathlib import Path

from tests.routers import MODEL, running_router, until

from vllm_router.app.watch import SPREAD_FROM
from vllm_router.local.serving import serve_simulated


async def test_who_comes_is_watched_and_who_goes_no_more(tmp_path: Path) -> None:
    listing = tmp_path / "engines.yaml"
    async with (
        serve_simulated(MODEL) as a,
        serve_simulated(MODEL) as b,
    ):
        listing.write_text(f"- url: {a.url}\n")
        settings = {"service_discovery": "file", "discovery_file": str(listing), "is_ready": False}
        async with running_router(**settings) as running:
            fleet = running.router.dispatcher.fleet
            await until(fleet.is_ready)
            listing.write_text(f"- url: {b.url}\n")
            await until(lambda: [e.spec.url for e in fleet.engines()] == [b.url])
            await until(fleet.is_ready)
            asked = len(a.log)
            count = len(b.log)
            await until(lambda: len(b.log) > count + 6)
            assert len(a.log) == asked


async def test_an_engine_just_taken_out_is_looked_at_at_once() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
    ):
        hour = {"static_backend_health_check_interval": 3600}
        async with running_router(a, b, routing_logic="roundrobin", **hour) as running:
            await a.order(status=503, times=3)
            fleet = running.router.dispatcher.fleet
            for _ in range(8):
                assert (await running.upload()).status_code == 200
            # Its hour is not over, yet it is back: it was asked and answered.
            await until(lambda: len([one for one in a.log if one.path == "/health"]) > 1)
            await until(lambda: all(e.state.value == "ready" for e in fleet.engines()))


async def test_an_engine_without_models_is_not_probed_by_transcribing() -> None:
    async with serve_simulated(MODEL) as engine:
        await engine.order(models=[])
        settings = {"static_backend_health_checks": True, "is_ready": False}
        async with running_router(engine, **settings) as running:
            [one] = running.router.dispatcher.fleet.engines()
            await until(lambda: one.last_error)
            assert one.last_error == "probe failed: it serves no model" or one.last_error == (
                "it serves no model"
            )
            assert engine.log.audio() == []


async def test_a_drained_engine_is_left_alone() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as running:
        fleet = running.router.dispatcher.fleet
        [one] = fleet.engines()
        fleet.drain(one.engine_id, running.router.now())
        await asyncio.sleep(0.4)
        count = len([each for each in engine.log if each.path == "/health"])
        await asyncio.sleep(0.6)
        assert len([each for each in engine.log if each.path == "/health"]) == count


async def test_a_large_fleets_questions_are_spread() -> None:
    count = SPREAD_FROM + 4
    urls = [f"http://127.0.0.1:9/{number}" for number in range(count)]
    hour = {"static_backend_health_check_interval": 3600, "is_ready": False}
    async with running_router(*urls, static_models=[MODEL] * count, **hour) as running:
        fleet = running.router.dispatcher.fleet
        await until(lambda: all(engine.last_probe for engine in fleet.engines()))
        times = sorted(e.last_probe.at for e in fleet.engines() if e.last_probe)
        assert times[-1] - times[0] > 0.2
