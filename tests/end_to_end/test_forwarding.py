"""What reaches an engine is what the client sent, and what comes back is what the engine said."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator

import pytest
from tests.fake_engine.request_log import LoggedRequest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import (
    MODEL,
    TRANSCRIPTIONS,
    TRANSLATIONS,
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
ODD = [
    ("model", MODEL.encode()),
    ("prompt", "Straße, naïve, 日本語\r\n--not a boundary".encode()),
    ("temperature", b"0.30000"),
    ("vllm_xargs", b'{"a": [1, 2]}'),
    ("no_engine_knows_this", bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"")),
    ("no_engine_knows_this", b""),
]


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


@pytest.fixture
async def router(engine: SimulatedHandle) -> AsyncIterator[RunningRouter]:
    async with running_router(engine, static_aliases=f"whisper-1:{MODEL}") as router:
        engine.log.clear()
        yield router


def only(engine: SimulatedHandle) -> LoggedRequest:
    [logged] = engine.log.audio()
    return logged


@pytest.mark.parametrize("place", range(len(ODD) + 1))
async def test_every_field_arrives_as_it_was_wherever_the_file_stands(
    router: RunningRouter, engine: SimulatedHandle, place: int
) -> None:
    parts = [field(name, value) for name, value in ODD]
    parts.insert(place, file(AUDIO, "ein Gespräch.wav"))
    answer = await router.upload(*parts)
    assert answer.status_code == 200
    logged = only(engine)
    assert logged.fields == ODD
    assert logged.file is not None
    assert logged.file.filename == "ein Gespräch.wav"
    assert logged.file.sha256 == hashlib.sha256(AUDIO).hexdigest()
    assert [part.name for part in logged.parts].index("file") == place
    assert logged.body_bytes == len(form(*parts))


async def test_an_upload_in_chunks_arrives_as_one_of_known_length(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    body = form(*(field(name, value) for name, value in ODD), file(AUDIO))

    async def pieces() -> AsyncIterator[bytes]:
        sizes = itertools.cycle([1, 7, 100, 1000, 5000])
        at = 0
        while at < len(body):
            size = next(sizes)
            yield body[at : at + size]
            at += size

    answer = await router.client.post(TRANSCRIPTIONS, content=pieces(), headers=named({}))
    assert answer.status_code == 200
    logged = only(engine)
    assert logged.fields == ODD
    assert logged.header("content-length") == str(len(body))
    assert logged.header("transfer-encoding") is None


async def test_nothing_is_invented(router: RunningRouter, engine: SimulatedHandle) -> None:
    assert (await router.upload(field("model", MODEL), file(AUDIO))).status_code == 200
    assert only(engine).fields == [("model", MODEL.encode())]


async def test_a_form_without_model_stays_without_if_there_is_only_one(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    assert (await router.upload(file(AUDIO))).status_code == 200
    assert only(engine).fields == []


async def test_an_alias_is_rewritten_in_the_form_and_nowhere_else(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    prompt = field("prompt", "whisper-1 is what model says: whisper-1")
    for parts in ([field("model", "whisper-1"), prompt, file(b"RIFFwhisper-1" + AUDIO)],):
        await router.upload(*parts, X_Model="whisper-1")
    logged = only(engine)
    assert logged.fields == [
        ("model", MODEL.encode()),
        ("prompt", b"whisper-1 is what model says: whisper-1"),
    ]
    assert logged.file is not None
    assert logged.file.sha256 == hashlib.sha256(b"RIFFwhisper-1" + AUDIO).hexdigest()
    assert logged.header("x-model") == "whisper-1"


async def test_each_route_reaches_its_like(router: RunningRouter, engine: SimulatedHandle) -> None:
    await router.upload()
    await router.upload(path=TRANSLATIONS)
    assert [one.path for one in engine.log.audio()] == [TRANSCRIPTIONS, TRANSLATIONS]


@pytest.mark.parametrize(
    ("response_format", "before", "after"),
    [("json", b'{"text":" ', b'{"text":"'), ("not-a-format", b"", b"")],
)
async def test_status_body_and_type_come_back_untouched_but_for_the_leading_space(
    router: RunningRouter,
    engine: SimulatedHandle,
    response_format: str,
    before: bytes,
    after: bytes,
) -> None:
    parts = [field("model", MODEL), field("response_format", response_format), file(AUDIO)]
    through = await router.upload(*parts)
    direct = await router.client.post(
        engine.url + TRANSCRIPTIONS, content=form(*parts), headers=named({})
    )
    assert through.status_code == direct.status_code
    assert direct.content.startswith(before)
    assert through.content == direct.content.replace(before, after, 1)
    assert through.headers["content-type"] == direct.headers["content-type"]


async def test_an_engines_refusal_is_the_clients_to_see(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await engine.order(status=422)
    answer = await router.upload()
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "a fault was ordered"
    assert len(engine.log.audio()) == 1
    assert (await router.engines())[0]["state"] == "ready"


async def test_a_request_id_is_taken_over_sent_on_and_given_back(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    answer = await router.upload(X_Request_Id="the-clients/1")
    assert answer.headers["x-request-id"] == "the-clients/1"
    assert only(engine).header("x-request-id").startswith("the-clients/1-")
    assert answer.headers["x-engine-id"] == engine.url


async def test_each_call_has_an_id_of_its_own(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    # vLLM ends all work of one ID with the first that is cancelled, and answers 200 with a part.
    for _ in range(2):
        await router.upload(X_Request_Id="the-clients/1")
    one, other = (audio.header("x-request-id") for audio in engine.log.audio())
    assert one != other


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 129])
async def test_a_request_id_is_made_where_none_is_usable(
    router: RunningRouter, engine: SimulatedHandle, given: str | None
) -> None:
    headers = {} if given is None else {"X_Request_Id": given}
    answer = await router.upload(**headers)
    made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert only(engine).header("x-request-id").startswith(f"{made}-")


async def test_an_errors_answer_has_a_request_id_too(router: RunningRouter) -> None:
    answer = await router.upload(field("model", "nobody"), file(AUDIO), X_Request_Id="mine")
    assert answer.status_code == 404
    assert answer.headers["x-request-id"] == "mine"


async def test_hop_by_hop_headers_and_credentials_go_no_further(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await router.upload(
        Connection="keep-alive, X-For-The-Proxy",
        X_For_The_Proxy="secret",
        Keep_Alive="timeout=5",
        TE="trailers",
        Upgrade="h2c",
        Proxy_Authorization="Basic abc",
        Authorization="Bearer the-clients",
        Cookie="a=b",
        X_Forwarded_For="1.2.3.4",
        X_Data_Parallel_Rank="3",
        X_Own="stays",
        Accept_Language="de",
    )
    logged = only(engine)
    for name in (
        "keep-alive",
        "te",
        "upgrade",
        "proxy-authorization",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "x-data-parallel-rank",
        "x-for-the-proxy",
    ):
        assert logged.header(name) is None, name
    assert logged.header("x-own") == "stays"
    assert logged.header("accept-language") == "de"
    assert logged.header("host") == engine.url.removeprefix("http://")


async def test_every_connection_line_of_a_client_is_heeded(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    lines = [
        ("Connection", "keep-alive"),
        ("connection", " close,\tX-For-The-Proxy "),
        ("X-For-The-Proxy", "secret"),
        ("X-Own", "stays"),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(request(form(field("model", MODEL), file(AUDIO)), headers=lines))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    logged = only(engine)
    assert logged.header("x-for-the-proxy") is None
    assert logged.header("x-own") == "stays"
    # That the connection is to be closed stands on the second line only.
    assert b"connection: close" in (await reader.read())
    writer.close()


async def test_engines_are_given_their_own_key() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000, api_key="the-engines") as engine,
        running_router(engine, engine_api_key="the-engines", api_key="the-clients") as router,
    ):
        answer = await router.upload(Authorization="Bearer the-clients")
        assert answer.status_code == 200
        logged = engine.log.audio()[-1]
        assert logged.header("authorization") == "Bearer the-engines"


async def test_events_are_passed_on_as_each_arrives(router: RunningRouter) -> None:
    """The engine says a quarter of its words, then waits; those words must be here meanwhile."""
    async with serve_simulated(MODEL, time_scale=0.5) as slow, running_router(slow) as front:
        parts = [field("model", MODEL), field("stream", "true"), file(AUDIO)]
        headers = named({"X_Stream_Format": "vllm"})
        loop = asyncio.get_running_loop()
        arrived = []
        async with front.client.stream(
            "POST", TRANSCRIPTIONS, content=form(*parts), headers=headers
        ) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for _ in answer.aiter_bytes():
                arrived.append(loop.time())
                if len(arrived) == 1:
                    assert slow.in_hand == 1
        assert len(arrived) > 2
        assert arrived[-1] - arrived[0] > 0.1


async def test_vllms_own_events_pass_as_the_bytes_they_were(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    parts = [field("model", MODEL), field("stream", "true"), file(AUDIO)]
    answer = await router.upload(*parts, X_Stream_Format="vllm")
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert all(json.loads(e)["object"] == "transcription.chunk" for e in events[:-1])


async def test_a_client_that_leaves_frees_the_engine_within_a_second() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as router:
        await engine.order(hang="answer")
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(request(form(field("model", MODEL), file(AUDIO))))
        await until(lambda: [one.outcome for one in engine.log.audio()] == ["hang"])
        loop = asyncio.get_running_loop()
        left_at = loop.time()
        writer.close()
        await until(lambda: engine.log.audio()[0].ended_at is not None)
        assert engine.log.audio()[0].ended_at - left_at < 1.0  # type: ignore[operator]
        fleet = router.router.dispatcher.fleet
        await until(lambda: all(e.in_flight == 0 for e in fleet.engines()))
        metrics = await router.metrics()
        left = f'vllm_router_requests_total{{model="{MODEL}",route="transcriptions",status="499"}}'
        assert metrics[left] == 1


async def test_an_upload_that_is_arriving_holds_no_engine(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    body = form(field("model", MODEL), file(AUDIO))
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    whole = request(body)
    writer.write(whole[:-10])
    await until(lambda: sum(s.open_uploads for s in router.router.spools) == 1)
    await asyncio.sleep(0.1)
    [view] = await router.engines()
    assert view["in_flight"] == 0
    assert engine.log.audio() == []
    writer.write(whole[-10:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
