"""Whatever goes wrong, the client gets a status that fits and OpenAI's shape, never a 500."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import (
    CONTENT_TYPE,
    MODEL,
    TRANSCRIPTIONS,
    RunningRouter,
    field,
    file,
    form,
    named,
    request,
    running_router,
    until,
)

from vllm_router.audio.wav import silence

AUDIO = silence(1.0)
GOOD = form(field("model", MODEL), file(AUDIO))
#: Nobody listens on the discard port.
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


@pytest.fixture
async def router(engine: SimulatedHandle) -> AsyncIterator[RunningRouter]:
    async with running_router(engine, max_upload_mb=0.25) as router:
        yield router


def check(answer: httpx.Response, status: int, code: str) -> dict[str, str | None]:
    """Return the error of an answer in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    error: dict[str, str | None] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["code"] == code
    assert error["message"]
    assert error["type"]
    return error


@pytest.mark.parametrize(
    "content_type", ["application/json", "", "application/x-www-form-urlencoded", "multipart/mixed"]
)
async def test_what_is_no_form_is_a_400(router: RunningRouter, content_type: str) -> None:
    answer = await router.client.post(
        TRANSCRIPTIONS, content=GOOD, headers={"content-type": content_type}
    )
    error = check(answer, 400, "bad_request")
    assert error["type"] == "invalid_request_error"
    assert "multipart/form-data" in str(error["message"])


async def test_a_form_without_boundary_is_a_400(router: RunningRouter) -> None:
    headers = {"content-type": "multipart/form-data"}
    answer = await router.client.post(TRANSCRIPTIONS, content=GOOD, headers=headers)
    assert "boundary" in str(check(answer, 400, "bad_request")["message"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        GOOD[:-6],
        GOOD[: len(GOOD) // 2],
        GOOD.replace(b"Content-Disposition", b"Content-Nothing"),
        GOOD.replace(b'name="model"', b"no name"),
    ],
)
async def test_a_broken_form_is_a_400(router: RunningRouter, body: bytes) -> None:
    answer = await router.client.post(TRANSCRIPTIONS, content=body, headers=named({}))
    check(answer, 400, "bad_request")


async def test_no_file_is_a_400_that_names_the_field(router: RunningRouter) -> None:
    error = check(await router.upload(field("model", MODEL)), 400, "missing_required_parameter")
    assert error["param"] == "file"


async def test_a_file_sent_as_text_is_told_so(router: RunningRouter) -> None:
    answer = await router.upload(field("model", MODEL), field("file", "audio"))
    error = check(answer, 400, "missing_required_parameter")
    assert "as text" in str(error["message"])


async def test_an_empty_file_is_a_400(router: RunningRouter) -> None:
    answer = await router.upload(field("model", MODEL), file(b""))
    error = check(answer, 400, "missing_required_parameter")
    assert error["message"] == "The file is empty."


async def test_an_unknown_model_is_a_404_that_names_what_there_is(router: RunningRouter) -> None:
    answer = await router.upload(field("model", "whisper-9"), file(AUDIO))
    error = check(answer, 404, "model_not_found")
    assert error["param"] == "model"
    assert "whisper-9" in str(error["message"])
    assert MODEL in str(error["message"])


async def test_no_model_is_a_400_where_there_are_several(engine: SimulatedHandle) -> None:
    async with (
        serve_simulated("other/model", time_scale=1000) as other,
        running_router(engine, other) as router,
    ):
        error = check(await router.upload(file(AUDIO)), 400, "missing_required_parameter")
        assert error["param"] == "model"
        assert MODEL in str(error["message"])
        assert "other/model" in str(error["message"])


async def test_what_declares_too_much_is_a_413_before_it_has_come(router: RunningRouter) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(request(b"", length=300_000))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_what_grows_too_large_is_a_413_while_it_comes(router: RunningRouter) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    head = b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head % (TRANSCRIPTIONS.encode(), CONTENT_TYPE))
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    for _ in range(5):
        writer.write(piece)
        await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    length = int(answer.lower().partition(b"content-length:")[2].split()[0])
    body = json.loads(await reader.readexactly(length))
    assert body["error"]["code"] == "upload_too_large"
    assert "0.25 MiB" in body["error"]["message"]
    writer.close()
    await until(lambda: not any(s.open_uploads for s in router.router.spools))


async def test_the_log_says_why_an_upload_was_refused_while_it_came(
    capsys: pytest.CaptureFixture[str], engine: SimulatedHandle
) -> None:
    async with running_router(engine, max_upload_mb=0.25) as router:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        head = b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Type: %b\r\n" + (
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(head % (TRANSCRIPTIONS.encode(), CONTENT_TYPE))
        writer.write((b"10000\r\n" + bytes(65536) + b"\r\n") * 5)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await until(lambda: not any(s.open_uploads for s in router.router.spools))
    logged = capsys.readouterr().err
    assert " status=413 " in logged
    assert " error=upload_too_large" in logged


async def test_no_engine_ready_is_a_503_with_retry_after(engine: SimulatedHandle) -> None:
    async with running_router(NOBODY, static_models=MODEL, is_ready=False) as router:
        answer = await router.upload()
        check(answer, 503, "no_engine_ready")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_fleet_that_has_not_spoken_yet_is_a_503(engine: SimulatedHandle) -> None:
    async with running_router(NOBODY, is_ready=False) as router:
        answer = await router.upload()
        check(answer, 503, "no_engine_ready")
        assert int(answer.headers["retry-after"]) >= 1


async def test_an_engine_that_fails_is_a_502(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await engine.order(status=503)
    answer = await router.upload()
    error = check(answer, 502, "engine_failed")
    assert "503" in str(error["message"])


@pytest.mark.parametrize("fault", ["garbage", "bad_body"])
async def test_an_engine_that_talks_rubbish_is_a_502(
    router: RunningRouter, engine: SimulatedHandle, fault: str
) -> None:
    await engine.order(**{fault: True})
    answer = await router.upload(
        field("model", MODEL), field("response_format", "srt"), file(AUDIO)
    )
    check(answer, 502, "engine_failed")


async def test_an_engine_that_is_too_slow_is_a_504(engine: SimulatedHandle) -> None:
    async with running_router(engine, read_timeout_s=0.2, split="off") as router:
        await engine.order(hang="answer")
        answer = await router.upload(field("model", MODEL), file(silence(0.1)))
        check(answer, 504, "engine_timeout")


async def test_patience_grows_with_the_audios_length(engine: SimulatedHandle) -> None:
    """Two seconds per second of audio: half a second's silence of the engine is then allowed."""
    async with running_router(engine, read_timeout_s=0.2) as router:
        await engine.order(delay_s=0.6)
        assert (await router.upload(field("model", MODEL), file(silence(4.0)))).status_code == 200


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic right", "right", "Bearer"])
async def test_a_wrong_key_is_a_401(engine: SimulatedHandle, authorization: str | None) -> None:
    async with running_router(engine, api_key="right") as router:
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await router.upload(**headers)
        error = check(answer, 401, "invalid_api_key")
        assert error["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await router.upload(Authorization="Bearer right")).status_code == 200
        check(await router.client.get("/v1/models"), 401, "invalid_api_key")
        health = await router.client.get("/health")
        assert health.status_code == 200


async def test_a_wrong_method_is_a_405_that_says_which_is_right(router: RunningRouter) -> None:
    answer = await router.client.get(TRANSCRIPTIONS)
    check(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = await router.client.delete("/health")
    check(answer, 405, "method_not_allowed")


async def test_an_unknown_route_is_a_404(router: RunningRouter) -> None:
    check(await router.client.get("/v1/nothing"), 404, "not_found")
    check(await router.client.post("/v1/audio/speech", json={}), 404, "not_found")


async def test_times_of_words_are_refused_if_engines_have_none(router: RunningRouter) -> None:
    answer = await router.upload(
        field("model", MODEL),
        field("response_format", "verbose_json"),
        field("timestamp_granularities[]", "word"),
        file(AUDIO),
    )
    error = check(answer, 400, "unsupported_value")
    assert error["param"] == "timestamp_granularities[]"
    assert "no word timestamps" in str(error["message"])


async def test_a_wrong_granularity_is_refused(router: RunningRouter) -> None:
    answer = await router.upload(
        field("model", MODEL), field("timestamp_granularities[]", "letter"), file(AUDIO)
    )
    check(answer, 400, "unsupported_value")


@pytest.mark.parametrize(
    ("header", "value"), [("X_Stream_Format", "morse"), ("X_Priority", "first")]
)
async def test_a_wrong_header_of_ours_is_refused_by_name(
    router: RunningRouter, header: str, value: str
) -> None:
    error = check(await router.upload(**{header: value}), 400, "unsupported_value")
    assert error["param"] == header.replace("_", "-")


async def test_a_full_disk_is_a_503(engine: SimulatedHandle) -> None:
    async with running_router(engine, spool_memory_mb=1, spool_max_mb=0.1) as router:
        answer = await router.upload(field("model", MODEL), file(bytes(2_000_000)))
        check(answer, 503, "spool_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert sum(s.open_uploads for s in router.router.spools) == 0
