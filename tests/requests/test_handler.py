"""What the handler does before a body is read, on its own errors, and when requests end."""

import asyncio
from typing import Any

import pytest
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, field, file, form, request, running_router, until

from vllm_router.audio.wav import silence


async def test_an_error_of_our_own_is_logged_and_told_without_its_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client is told that it failed, the operator why."""
    async with serve_simulated(MODEL) as engine, running_router(engine) as running:
        service = running.router.service
        error = service.failed(Fake(), ZeroDivisionError("inner secret"))  # type: ignore[arg-type]
        assert error.status == 500
        assert "inner secret" not in error.body().decode()
        assert "inner secret" in caplog.text


class Fake:
    def __repr__(self) -> str:
        return "<Exchange POST /x -> None>"


@pytest.mark.parametrize("head", [b"POST /v1/audio/transcriptions HTTP/1.1\r\n"])
async def test_a_wrong_key_is_refused_before_the_body_comes(head: bytes) -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine, api_key="k") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head + b"Host: r\r\nContent-Length: 1000000\r\nContent-Type: x/y\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_in_flight_goes_back_to_nothing_whichever_way_requests_end() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine) as running,
    ):
        service = running.router.service
        good = form(field("model", MODEL), file(silence(1.0)))
        ends: list[Any] = [good, good[:-4], form(field("model", "nobody"), file(b"x")), b"rubbish"]
        for body in ends:
            await running.client.post(
                "/v1/audio/transcriptions",
                content=body,
                headers={"content-type": "multipart/form-data; boundary=test-boundary-7c1e"},
            )
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request(good)[:-5])
        await until(lambda: service.in_flight == 1)
        writer.close()
        await until(lambda: service.in_flight == 0)
