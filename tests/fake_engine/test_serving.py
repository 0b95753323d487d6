"""A simulated engine in the test's own event loop."""

import asyncio
import hashlib

import httpx
import pytest
from tests.fake_engine.faults import Faults, FaultsError
from tests.fake_engine.serving import SimulatedHandle, serve_simulated

from vllm_router.audio.wav import silence

PATH = "/v1/audio/transcriptions"


def upload(duration_s: float = 1.0) -> dict[str, tuple[str, bytes, str]]:
    return {"file": ("a b.wav", silence(duration_s), "audio/wav")}


async def post(engine: SimulatedHandle, **fields: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(engine.url + PATH, files=upload(), data=fields)


async def test_an_upload_is_answered_with_its_digest() -> None:
    async with serve_simulated(time_scale=100) as engine:
        answer = await post(engine)
    digest = hashlib.sha256(silence(1.0)).hexdigest()
    assert f"Window 0 of {digest[:8]}" in answer.json()["text"]
    assert answer.json()["usage"] == {"type": "duration", "seconds": 1}


async def test_the_log_has_fields_and_file_as_they_were_received() -> None:
    async with serve_simulated(time_scale=100) as engine:
        await post(engine, model="openai/whisper-small", odd=" ü\r\n=&")
        (request,) = engine.log.audio()
    assert request.outcome == "200"
    assert request.fields == [("model", b"openai/whisper-small"), ("odd", " ü\r\n=&".encode())]
    assert request.file is not None
    assert request.file.filename == "a b.wav"
    assert request.file.content_type == "audio/wav"
    assert request.file.size_bytes == len(silence(1.0))
    assert request.header("Host") == engine.url.removeprefix("http://")


async def test_a_refusing_engine_keeps_its_port_and_comes_back_on_it() -> None:
    async with serve_simulated(time_scale=100) as engine:
        await engine.order(refuse=True)
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await post(engine)
        await engine.order()
        assert (await post(engine)).status_code == 200


async def test_a_killed_engine_resets_work_under_way() -> None:
    async with serve_simulated() as engine:
        await engine.order(hang="answer")
        task = asyncio.create_task(post(engine))
        while not engine.log.audio():
            await asyncio.sleep(0.01)
        await engine.kill()
        with pytest.raises(httpx.ReadError):
            await task
        await engine.restart()
        assert (await post(engine)).status_code == 200


async def test_a_client_that_leaves_frees_its_windows() -> None:
    async with serve_simulated() as engine:
        await engine.order(sleeping=True)
        task = asyncio.create_task(post(engine))
        while not engine.running:
            await asyncio.sleep(0.01)
        task.cancel()
        while engine.running:
            await asyncio.sleep(0.01)
        assert engine.in_hand == 0
        assert engine.log.audio()[0].outcome == "client left"


async def test_idle_connections_are_closed_after_a_while() -> None:
    async with serve_simulated(keep_alive_s=0.05) as engine, httpx.AsyncClient() as client:
        await client.get(engine.url + "/health")
        while engine.open_connections:
            await asyncio.sleep(0.01)


async def test_work_under_way_gets_its_grace() -> None:
    async with serve_simulated(time_scale=10) as engine:
        task = asyncio.create_task(post(engine))
        while not engine.running:
            await asyncio.sleep(0.001)
        await engine.stop(grace_s=30)
        assert (await task).status_code == 200


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serve_simulated() as engine:
        with pytest.raises(OSError, match="in use"):
            async with serve_simulated(port=engine.port):
                pass  # pragma: no cover


async def test_an_engine_may_start_out_refusing() -> None:
    async with serve_simulated(faults=Faults(refuse=True)) as engine:
        with pytest.raises(httpx.ConnectError):
            await post(engine)


async def test_an_ordered_fault_that_does_not_exist_changes_nothing() -> None:
    async with serve_simulated(time_scale=100) as engine:
        with pytest.raises(FaultsError):
            await engine.order(nonsense=1)
        assert (await post(engine)).status_code == 200
        assert (engine.faults, engine.waiting, len(engine.log)) == (Faults(), 0, 1)
