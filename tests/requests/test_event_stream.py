from __future__ import annotations

import asyncio
import json
from typing import cast

import pytest

from vllm_router.errors import EngineFailed
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.event_stream import EventStream
from vllm_router.server.exchange import Exchange, Headers


class Client:
    """In the place of an exchange: what a client would have got."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Headers = []
        self.body = b""
        self.is_ended = False
        self.has_spoken = False

    def begin(self, status: int, headers: Headers, length: int | None = None) -> Client:
        assert self.status is None
        assert length is None
        self.status, self.headers = status, list(headers)
        return self

    def write(self, data: bytes) -> None:
        assert self.status is not None
        assert not self.is_ended
        self.body += data

    def speak(self) -> None:
        self.has_spoken = True

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def end(self) -> None:
        assert not self.is_ended
        self.is_ended = True


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def record() -> RequestRecord:
    return RequestRecord("request-1", Task.TRANSCRIBE)


def stream(client: Client, record: RequestRecord, keep_alive_s: float = 3600) -> EventStream:
    return EventStream(cast(Exchange, client), record, keep_alive_s)


async def test_the_head_waits_for_the_first_event(client: Client, record: RequestRecord) -> None:
    with stream(client, record) as events:
        events.set_header(b"x-engine-id", b"a")
        events.set_header(b"x-engine-id", b"b")
        await events.send(b"")
        assert not events.is_begun
        await events.send(b"data: 1\n\n")
        assert events.is_begun
        events.set_header(b"too", b"late")
        events.end()
    assert [value for name, value in client.headers if name == b"x-engine-id"] == [b"b"]
    names = dict(client.headers)
    assert names[b"content-type"].startswith(b"text/event-stream")
    assert names[b"x-accel-buffering"] == b"no"
    assert b"too" not in names
    assert (client.body, client.is_ended) == (b"data: 1\n\n", True)


async def test_a_silence_is_filled_with_comments(client: Client, record: RequestRecord) -> None:
    with stream(client, record, 0.02) as events:
        async with asyncio.timeout(10):
            while client.body.count(b":") < 3:
                await asyncio.sleep(0.01)
        assert client.status == 200
        assert all(not line or line.startswith(b":") for line in client.body.split(b"\n"))
        await events.send(b"data: 1\n\n")
        assert client.has_spoken
    before = client.body
    await asyncio.sleep(0.1)
    assert client.body == before


async def test_a_failure_is_the_last_event(client: Client, record: RequestRecord) -> None:
    with stream(client, record) as events:
        await events.send(b"data: 1\n\n")
        raise EngineFailed("what went wrong")
    assert record.error == "engine_failed"
    last = client.body.decode().strip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["message"] == "what went wrong"
    assert error["code"] == "engine_failed"
    assert client.is_ended


async def test_a_failure_before_the_first_event_is_told_otherwise(
    client: Client, record: RequestRecord
) -> None:
    with pytest.raises(EngineFailed), stream(client, record):
        raise EngineFailed("what went wrong")
    assert (client.status, record.error) == (None, None)


async def test_a_fault_of_our_own_is_not_an_event(client: Client, record: RequestRecord) -> None:
    with pytest.raises(ZeroDivisionError), stream(client, record) as events:  # noqa: PT012
        await events.send(b"data: 1\n\n")
        raise ZeroDivisionError
    assert client.body == b"data: 1\n\n"


async def test_a_stream_of_nothing_is_a_whole_answer(client: Client, record: RequestRecord) -> None:
    with stream(client, record) as events:
        events.end()
    assert (client.status, client.body, client.is_ended) == (200, b"", True)


async def test_a_stream_that_has_given_way_sends_nothing_more(
    client: Client, record: RequestRecord
) -> None:
    with stream(client, record, 0.01) as events:
        events.give_way()
        other = client.begin(200, [])
        other.write(b"{")
        await asyncio.sleep(0.1)
        other.write(b"}")
        other.end()
    assert client.body == b"{}"


async def test_an_error_is_not_written_into_the_answer_of_another(
    client: Client, record: RequestRecord
) -> None:
    with pytest.raises(EngineFailed), stream(client, record) as events:  # noqa: PT012
        events.give_way()
        client.begin(200, []).write(b"{")
        raise EngineFailed("what went wrong")
    assert client.body == b"{"


async def test_a_stream_that_has_begun_cannot_give_way(
    client: Client, record: RequestRecord
) -> None:
    with pytest.raises(RuntimeError), stream(client, record) as events:  # noqa: PT012
        await events.send(b"data: 1\n\n")
        events.give_way()
