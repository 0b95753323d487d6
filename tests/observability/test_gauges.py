"""What is read when Prometheus asks."""

import asyncio
import os
from pathlib import Path

from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, field, file, running_router, until

from vllm_router.audio.wav import silence


async def test_models_are_shown_with_the_engines_ready_for_them() -> None:
    async with (
        serve_simulated("a", time_scale=1000) as one,
        serve_simulated("b", time_scale=1000) as other,
        running_router(one, other) as router,
    ):
        shown = await router.metrics()
        assert shown['vllm_router_ready_engines{model="a"}'] == 1
        assert shown['vllm_router_ready_engines{model="b"}'] == 1
        await one.kill()
        fleet = router.router.dispatcher.fleet
        await until(lambda: not fleet.is_ready("a"))
        shown = await router.metrics()
        assert shown['vllm_router_ready_engines{model="a"}'] == 0
        assert shown['vllm_router_ready_engines{model="b"}'] == 1


async def test_an_engine_at_work_is_shown_with_its_work() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine, split="off") as router:
        await engine.order(hang="answer")
        upload = asyncio.create_task(
            router.upload(field("model", MODEL), file(silence(45.0)), x_request_id="one")
        )
        await until(lambda: any(e.in_flight for e in router.router.dispatcher.fleet.engines()))
        shown = await router.metrics()
        label = f'{{engine="{engine.url}"}}'
        assert shown["vllm_router_in_flight" + label] == 1
        assert shown["vllm_router_audio_seconds_in_flight" + label] == 45
        assert shown["vllm_router_windows_in_flight" + label] == 2
        assert shown[f'vllm_router_engine_state{{engine="{engine.url}",state="ready"}}'] == 1
        assert shown["vllm_router_open_uploads"] == 1
        assert shown['vllm_router_spool_bytes{where="memory"}'] > 45 * 32_000
        assert shown['vllm_router_spool_bytes{where="disk"}'] == 0
        upload.cancel()


async def test_the_spool_holds_what_it_may_if_the_disk_has_it(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    async with running_router(
        "http://127.0.0.1:9", is_ready=False, spool_dir=tmp_path, spool_max_mb=1
    ) as router:
        shown = await router.metrics()
        assert free.f_bavail * free.f_frsize > 2**20
        assert shown['vllm_router_spool_capacity_bytes{where="disk"}'] == 2**20
        assert shown['vllm_router_spool_capacity_bytes{where="memory"}'] >= 48 * 2**20


async def test_a_spool_whose_folder_is_gone_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    async with running_router("http://127.0.0.1:9", is_ready=False, spool_dir=folder) as router:
        folder.rmdir()
        shown = await router.metrics()
        assert shown['vllm_router_spool_capacity_bytes{where="disk"}'] == 0


async def test_a_list_of_engines_that_was_given_never_ages() -> None:
    async with running_router("http://127.0.0.1:9", is_ready=False) as router:
        shown = await router.metrics()
        assert shown['vllm_router_discovery_last_sync_age_seconds{source="flags"}'] == 0
        assert shown["vllm_router_connections"] == 1
        assert shown["vllm_router_draining"] == 0
