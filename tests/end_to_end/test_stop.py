"""SIGTERM: nothing new, what is in flight finishes, exit 0."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest
from tests.end_to_end.engines import engines_beside
from tests.end_to_end.processes import Process, router_process
from tests.routers import MODEL, TRANSCRIPTIONS

from vllm_router.audio.wav import silence

QUICK = ("--host", "127.0.0.1", "--port", "0", "--engine-stats-interval", "0.2")


async def post(client: httpx.AsyncClient) -> httpx.Response:
    files = {"file": ("a.wav", silence(1.0))}
    return await client.post(TRANSCRIPTIONS, data={"model": MODEL}, files=files)


async def in_flight(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(30):
        while sum(view["in_flight"] for view in (await client.get("/engines")).json()) != count:
            await asyncio.sleep(0.02)


def stopping(process: Process) -> None:
    os.kill(process.process.pid, signal.SIGTERM)
    process.wait_for("stopping: 1 uploads in flight")


async def test_what_is_in_flight_finishes_and_nothing_new_is_accepted(tmp_path: Path) -> None:
    with (
        engines_beside(1, time_scale=1000) as engines,
        router_process(tmp_path / "log", ["--static-backends", engines.urls, *QUICK]) as process,
    ):
        url = await asyncio.to_thread(process.wait_until_ready)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            engines.order(delay_s=1.5)
            upload = asyncio.create_task(post(client))
            await in_flight(client, 1)
            await asyncio.to_thread(stopping, process)
            ready = await client.get("/ready")
            assert (ready.status_code, ready.json()) == (503, {"status": "shutting down"})
            assert (await client.get("/health")).status_code == 200
            late = await post(client)
            assert late.status_code == 503
            assert late.json()["error"]["code"] == "shutting_down"
            assert "retry-after" in late.headers
            assert (await upload).status_code == 200
        assert await asyncio.to_thread(process.process.wait, 30) == 0
        assert process.lines[-1].endswith("stopped")
        assert "Traceback" not in "\n".join(process.lines)


@pytest.mark.parametrize("way", ["timeout", "second signal"])
async def test_what_takes_too_long_is_cut_off(tmp_path: Path, way: str) -> None:
    patience = "0.5" if way == "timeout" else "300"
    arguments = ["--drain-timeout-s", patience, *QUICK]
    with (
        engines_beside(1, time_scale=1000) as engines,
        router_process(
            tmp_path / "log", ["--static-backends", engines.urls, *arguments]
        ) as process,
    ):
        url = await asyncio.to_thread(process.wait_until_ready)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            engines.order(hang="answer")
            upload = asyncio.create_task(post(client))
            await in_flight(client, 1)
            await asyncio.to_thread(stopping, process)
            if way == "second signal":
                os.kill(process.process.pid, signal.SIGTERM)
                await asyncio.to_thread(process.signal_again)
            assert await asyncio.to_thread(process.process.wait, 30) == 0
            with pytest.raises(httpx.TransportError):
                await upload
        log = "\n".join(process.lines)
        assert "1 uploads in flight are cut off" in log
        assert "Traceback" not in log


async def test_in_the_grace_uploads_are_taken_while_the_router_says_that_it_goes(
    tmp_path: Path,
) -> None:
    arguments = ["--shutdown-grace-s", "3", *QUICK]
    with (
        engines_beside(1, time_scale=1000) as engines,
        router_process(
            tmp_path / "log", ["--static-backends", engines.urls, *arguments]
        ) as process,
    ):
        url = await asyncio.to_thread(process.wait_until_ready)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            assert "connection" not in (await post(client)).headers
            os.kill(process.process.pid, signal.SIGTERM)
            await asyncio.to_thread(process.wait_for, "accepting uploads for another 3 s")
            assert (await client.get("/ready")).status_code == 503
            late = await post(client)
            assert late.status_code == 200
            assert late.headers["connection"] == "close"
            engines.order(delay_s=5.0)
            upload = asyncio.create_task(post(client))
            await asyncio.to_thread(process.wait_for, "stopping: 1 uploads in flight")
            refused = await post(client)
            assert refused.json()["error"]["code"] == "shutting_down"
            assert (await upload).status_code == 200
        assert await asyncio.to_thread(process.process.wait, 30) == 0


@pytest.mark.parametrize("way", ["second signal", "SIGINT"])
async def test_whoever_is_in_a_hurry_gets_no_grace(tmp_path: Path, way: str) -> None:
    arguments = ["--shutdown-grace-s", "3600", "--static-backends", "http://127.0.0.1:9", *QUICK]
    with router_process(tmp_path / "log", arguments) as process:
        assert await asyncio.to_thread(lambda: process.url)
        if way == "SIGINT":
            os.kill(process.process.pid, signal.SIGINT)
        else:
            os.kill(process.process.pid, signal.SIGTERM)
            await asyncio.to_thread(process.wait_for, "accepting uploads for another 3600 s")
            await asyncio.to_thread(process.signal_again)
        assert await asyncio.to_thread(process.process.wait, 30) == 0


async def test_sigint_stops_an_idle_router_at_once(tmp_path: Path) -> None:
    with router_process(
        tmp_path / "log", ["--static-backends", "http://127.0.0.1:9", *QUICK]
    ) as process:
        assert await asyncio.to_thread(lambda: process.url)
        os.kill(process.process.pid, signal.SIGINT)
        assert await asyncio.to_thread(process.process.wait, 30) == 0
