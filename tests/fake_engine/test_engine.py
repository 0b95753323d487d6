"""The faults a simulated engine can be ordered to show, and its memory."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_engine.faults import Faults
from tests.fake_engine.forms import file, form, request
from tests.fake_engine.serving import SimulatedHandle, serve_simulated

from vllm_router.audio.wav import silence

PATH = "/v1/audio/transcriptions"


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(time_scale=1000) as handle:
        yield handle


@pytest.fixture
async def client(engine: SimulatedHandle) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url, timeout=30) as one:
        yield one


async def post(client: httpx.AsyncClient, audio_s: float = 1.0, **fields: str) -> httpx.Response:
    upload = {"file": ("a.wav", silence(audio_s), "audio/wav")}
    return await client.post(PATH, files=upload, data=fields)


async def test_a_status_strikes_as_many_times_as_ordered(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    await engine.order(status=503, times=2)
    assert [(await post(client)).status_code for _ in range(3)] == [503, 503, 200]
    assert [one.outcome for one in engine.log.audio()] == ["503", "503", "200"]


async def test_a_rate_strikes_some(engine: SimulatedHandle, client: httpx.AsyncClient) -> None:
    await engine.order(status=500, rate=0.5)
    seen = {(await post(client, 0.1)).status_code for _ in range(30)}
    assert seen == {200, 500}


async def test_poison_strikes_the_poisonous_alone(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    await engine.order(poison="WAVE")
    assert (await post(client)).status_code == 500
    await engine.order(poison="something else")
    assert (await post(client)).status_code == 200
    await engine.order(poison_sha256=hashlib.sha256(silence(1.0)).hexdigest())
    assert [(await post(client, s)).status_code for s in (1.0, 2.0)] == [500, 200]


@pytest.mark.parametrize(
    "order",
    [
        {"reset_upload_at": 0},
        {"reset_upload_at": 100},
        {"garbage": True},
        {"cut_answer_at": 50},
        {"cut_answer_at": 50, "cut_by": "close"},
    ],
)
async def test_a_broken_exchange_is_a_transport_error(
    engine: SimulatedHandle, client: httpx.AsyncClient, order: dict[str, object]
) -> None:
    await engine.order(**order)
    with pytest.raises(httpx.TransportError):
        await post(client)
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("where", ["upload", "answer", "body"])
async def test_a_hang_lasts_until_the_client_leaves(
    engine: SimulatedHandle, client: httpx.AsyncClient, where: str
) -> None:
    await engine.order(hang=where)
    with pytest.raises(httpx.TimeoutException):
        await client.post(PATH, files={"file": ("a.wav", silence(600.0), "audio/wav")}, timeout=0.3)
    assert (await client.get("/health")).status_code == 200


async def test_answers_can_be_slow_late_long_and_nonsense(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    await engine.order(answer_bytes_per_s=4000, delay_s=0.01, header_bytes=5000)
    answer = await post(client)
    assert answer.status_code == 200
    assert "x-padding" in answer.headers
    await engine.order(bad_body=True)
    with pytest.raises(json.JSONDecodeError):
        (await post(client)).json()
    await engine.order(length_off_by=-3)
    with pytest.raises((json.JSONDecodeError, httpx.TransportError)):
        (await post(client)).json()


async def test_routes_can_lie(engine: SimulatedHandle, client: httpx.AsyncClient) -> None:
    await engine.order(models=["other"], metrics="vllm:num_requests_running 99", health_status=500)
    assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["other"]
    assert (await client.get("/metrics")).text == "vllm:num_requests_running 99"
    assert (await client.get("/health")).status_code == 500
    assert (await post(client)).status_code == 200


async def test_a_fault_everywhere_strikes_health_too(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    await engine.order(status=503)
    assert (await client.get("/health")).status_code == 200
    await engine.order(status=503, everywhere=True)
    assert (await client.get("/health")).status_code == 503


async def test_a_sleeping_engine_says_so_and_wakes(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    await engine.order(sleeping=True)
    task = asyncio.create_task(post(client))
    while not engine.running:
        await asyncio.sleep(0.01)
    page = (await client.get("/metrics")).text
    assert 'sleep_state="awake",engine="0",model_name="openai/whisper-small"} 0.0' in page
    assert 'num_requests_running{engine="0",model_name="openai/whisper-small"} 1.0' in page
    assert (await client.get("/load")).json() == {"server_load": 1}
    await engine.order()
    assert (await task).status_code == 200


# The simulation's own routes


async def test_faults_are_ordered_over_http(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/simulate/faults", json={"status": 502, "times": 1})
    assert answer.json() == {"status": 502, "times": 1}
    assert (await client.get("/simulate/faults")).json() == {"status": 502, "times": 1}
    assert engine.faults == Faults(status=502, times=1)
    assert [(await post(client)).status_code for _ in range(2)] == [502, 200]
    for wrong in (b"{", b"[]", b'{"nope":1}'):
        answer = await client.post("/simulate/faults", content=wrong)
        assert answer.status_code == 400
    assert (await client.post("/simulate/faults")).json() == {}


async def test_refusal_ordered_over_http_ends_over_the_same_connection(
    engine: SimulatedHandle,
) -> None:
    async with httpx.AsyncClient(base_url=engine.url) as keeper:
        answer = await keeper.post("/simulate/faults", json={"refuse": True})
        assert answer.status_code == 200
        async with httpx.AsyncClient(base_url=engine.url) as other:
            with pytest.raises(httpx.ConnectError):
                await other.get("/health")
        await keeper.post("/simulate/faults", json={})
        async with httpx.AsyncClient(base_url=engine.url) as other:
            assert (await other.get("/health")).status_code == 200


async def test_the_log_is_shown_over_http(client: httpx.AsyncClient) -> None:
    await post(client, model="openai/whisper-small")
    await client.get("/health")
    (one,) = (await client.get("/simulate/log", params={"path": PATH})).json()
    assert [part["name"] for part in one["parts"]] == ["model", "file"]
    assert one["parts"][1]["sha256"] == hashlib.sha256(silence(1.0)).hexdigest()
    assert one["outcome"] == "200"
    assert len((await client.get("/simulate/log", params={"limit": 1})).json()) == 1
    assert (await client.get("/simulate/log", params={"limit": "x"})).status_code == 400
    assert (await client.delete("/simulate/log")).status_code == 204
    assert (await client.get("/simulate/log")).json() == []
    assert (await client.get("/simulate/nothing")).status_code == 404


async def test_the_memory_of_requests_holds_no_audio(
    engine: SimulatedHandle, client: httpx.AsyncClient
) -> None:
    await post(client, model="openai/whisper-small")
    (one,) = engine.log.audio()
    assert one.fields == [("model", b"openai/whisper-small")]
    assert one.file is not None
    assert (bytes(one.file.head), one.file.tail) == (b"", b"")
    assert one.file.size_bytes == len(silence(1.0))


async def test_a_client_that_leaves_in_the_upload_is_noted(engine: SimulatedHandle) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    writer.write(request(form(file(silence(1.0))))[:1000])
    await writer.drain()
    while not engine.log.audio():
        await asyncio.sleep(0.01)
    writer.close()
    while engine.open_connections:
        await asyncio.sleep(0.01)
    assert engine.log.audio()[0].outcome == "client left"
