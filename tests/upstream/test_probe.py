"""Questions to engines: good answers, bad ones, lies and silence."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.discovery.test_kube_objects import JSON
from tests.fake_engine.serving import serve_simulated
from tests.upstream.raw_engine import Peer, RawEngine, http_client, raw_engine, saying, until

from vllm_router.scheduling.engine_bounds import MAX_MODELS, is_name
from vllm_router.upstream.call import CallFailed
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.probe import (
    MAX_ANSWER_BYTES,
    MAX_MODELS_BYTES,
    EngineInquiry,
    read_models,
)

MODEL = "openai/whisper-small"


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with http_client() as client:
        yield client


def url(engine: RawEngine) -> str:
    return f"http://127.0.0.1:{engine.port}"


def answer(status: int, body: bytes = b"", kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


async def test_an_engine_that_is_well_is_found_well(client: HttpClient) -> None:
    async with serve_simulated(MODEL, time_scale=1000, api_key="secret") as engine:
        inquiry = EngineInquiry(client, "secret", 20)
        assert (await inquiry.health(engine.url)).error is None
        assert (await inquiry.transcribe_silence(engine.url, MODEL)).error is None
        assert (await inquiry.models(engine.url)).names == (MODEL,)
        stats = await inquiry.stats(engine.url)
        assert stats.running == 0
        [logged] = list(engine.log.audio())
        assert {part.name for part in logged.parts} >= {"model", "file"}


async def test_a_key_that_is_refused_is_named(client: HttpClient) -> None:
    async with serve_simulated(MODEL, time_scale=1000, api_key="secret") as engine:
        inquiry = EngineInquiry(client, None, 20)
        probe = await inquiry.transcribe_silence(engine.url, MODEL)
        assert probe.error is not None
        assert "--engine-api-key" in probe.error
        with pytest.raises(CallFailed, match="--engine-api-key"):
            await inquiry.models(engine.url)


@pytest.mark.parametrize("status", [401, 403, 302, 308])
async def test_who_is_not_let_in_learns_it_without_a_transcription(
    client: HttpClient, status: int
) -> None:
    async with raw_engine(saying(answer(status))) as engine:
        probe = await EngineInquiry(client, "k", 20).access(url(engine))
        assert probe.is_denied
        assert str(status) in (probe.error or "")


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_whatever_else_is_wrong_with_its_list_an_engine_has_let_the_router_in(
    client: HttpClient, status: int
) -> None:
    async with raw_engine(saying(answer(status))) as engine:
        probe = await EngineInquiry(client, "k", 20).access(url(engine))
        assert (probe.error, probe.is_denied) == (None, False)


async def test_an_engine_that_hangs_is_slow_and_one_that_is_gone_is_not(
    client: HttpClient,
) -> None:
    inquiry = EngineInquiry(client, None, 0.2)
    async with raw_engine(saying()) as engine:
        probe = await inquiry.health(url(engine))
        assert probe.is_timeout
        assert probe.error is not None
        gone = url(engine)
    probe = await inquiry.health(gone)
    assert probe.error is not None
    assert not probe.is_timeout


async def test_an_engine_that_answers_for_ever_is_slow(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not peer.reader.at_eof():
            await peer.say(b"x")
            await asyncio.sleep(0.001)

    async with raw_engine(script) as engine:
        with pytest.raises(CallFailed, match="within"):
            await EngineInquiry(client, None, 0.2).models(url(engine))
        await until(lambda: engine.gone == 1)


Question = Callable[[EngineInquiry, str], Awaitable[object]]
QUESTIONS: list[Question] = [
    lambda inquiry, to: inquiry.models(to),
    lambda inquiry, to: inquiry.stats(to),
]


@pytest.mark.parametrize("more", [0, 1])
async def test_a_list_of_models_is_read_up_to_1_mib(client: HttpClient, more: int) -> None:
    listed = json.dumps({"data": [{"id": MODEL}]}).encode()
    data = answer(200, listed + b" " * (MAX_MODELS_BYTES - len(listed) + more))
    async with raw_engine(saying(data, then="close")) as engine:
        models = EngineInquiry(client, None, 20).models(url(engine))
        if more:
            with pytest.raises(CallFailed, match="too large"):
                await models
        else:
            assert (await models).names == (MODEL,)
    await until(lambda: not client.open_connections)


@pytest.mark.parametrize("question", QUESTIONS, ids=["models", "stats"])
@pytest.mark.parametrize(
    "data",
    [
        answer(500, b"{}"),
        answer(404),
        answer(200, b"\xff\xfe\x00", b"text/plain"),
        answer(200, b"x" * (MAX_ANSWER_BYTES + 1)),
        answer(200, b"data: never a list\n\n", b"text/event-stream"),
        answer(200, b"vllm:num_requests_running not_a_number\n", b"text/plain"),
        answer(200, b"vllm:num_requests_running{a=} 1\n", b"text/plain"),
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_lies_and_nonsense_are_told_in_a_sentence(
    client: HttpClient, question: Question, data: bytes
) -> None:
    async with raw_engine(saying(data, then="close")) as engine:
        with pytest.raises(CallFailed):
            await question(EngineInquiry(client, None, 20), url(engine))
    await until(lambda: not client.open_connections)


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_a_probe_wants_a_200(client: HttpClient, status: int) -> None:
    async with raw_engine(saying(answer(status))) as engine:
        probe = await EngineInquiry(client, None, 20).health(url(engine))
        assert probe.error is not None
        assert str(status) in probe.error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"data"',
        b"{}",
        b'{"data": null}',
        b'{"data": [1]}',
        b'{"data": [{}]}',
        b'{"data": [{"id": 1}]}',
        b'{"data": [{"id": []}]}',
        b'{"data": [{"id": ""}]}',
        b'{"data": [{"id": "a\\nb"}]}',
        b'{"data": [{"id": "\\ud800"}]}',
        b'{"data": [{"id": "%b"}]}' % (b"x" * 501),
        b'{"data": {"id": "x"}}',
        json.dumps({"data": [{"id": f"m{i}"} for i in range(1001)]}).encode(),
        b'{"data":' * 100_000,
        b"[" * 100_000,
        b"1" * 100_000,
    ],
)
def test_what_is_no_list_of_models_is_refused(body: bytes) -> None:
    with pytest.raises(CallFailed):
        read_models(body)


def test_models_are_named_once_in_the_engines_order() -> None:
    body = json.dumps({"data": [{"id": "b"}, {"id": "a", "x": 1}, {"id": "b"}]}).encode()
    assert read_models(body).names == ("b", "a")
    assert read_models(b'{"data": []}') == ((), {})


def test_the_length_of_a_context_is_taken_where_it_is_one() -> None:
    told = {"a": 448, "b": None, "c": True, "d": -1, "e": "448", "f": 10**400, "g": 4.5}
    listed = [{"id": name, "max_model_len": length} for name, length in told.items()]
    body = json.dumps({"data": [*listed, {"id": "h"}]}).encode()
    assert read_models(body).max_model_lens == {"a": 448}


@given(
    st.binary(max_size=100) | st.text().map(lambda t: json.dumps({"data": [{"id": t}]}).encode())
)
def test_any_bytes_are_a_list_of_names_or_refused(body: bytes) -> None:
    try:
        names = read_models(body).names
    except CallFailed:
        return
    assert all(name.encode() for name in names)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": JSON | st.just("m")},
            optional={
                "created": JSON | st.just(10**400),
                "max_model_len": JSON,
                "root": JSON,
                "permission": JSON,
            },
        )
        | JSON,
        max_size=4,
    )
    | JSON
)
def test_any_list_of_models_is_names_or_refused(listed: Any) -> None:
    try:
        names, lengths = read_models(json.dumps({"object": "list", "data": listed}).encode())
    except CallFailed:
        return
    assert set(lengths) <= set(names)
    assert all(is_name(name) for name in names)


@pytest.mark.parametrize(
    ("count", "is_read"), [(MAX_MODELS, True), (MAX_MODELS + 1, False), (100_000, False)]
)
def test_a_list_of_more_models_than_an_engine_has_is_refused(count: int, is_read: bool) -> None:
    body = json.dumps({"data": [{"id": f"m{number}"} for number in range(count)]}).encode()
    if is_read:
        assert len(read_models(body).names) == count
    else:
        with pytest.raises(CallFailed, match="not a reasonable list"):
            read_models(body)
