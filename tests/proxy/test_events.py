import asyncio
import json
from typing import cast

import pytest

from vllm_router.errors import EngineFailed
from vllm_router.inbound.exchange import Exchange, Headers
from vllm_router.proxy.events import EventStream


class Client:
    """In the place of an exchange: what a client would have got."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Headers = []
        self.body = b""
        self.is_ended = False
        self.has_spoken = False

    def begin(self, status: int, headers: Headers, length: int | None = None) -> None:
        assert self.status is None
        assert length is None
        self.status, self.headers = status, list(headers)

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


def stream(client: Client, keep_alive_s: float = 3600) -> EventStream:
    return EventStream(cast(Exchange, client), keep_alive_s)


async def test_the_head_waits_for_the_first_event(client: Client) -> None:
    events = stream(client)
    events.add_header(b"x-engine-id", b"a")
    await events.send(b"")
    assert not events.is_begun
    await events.send(b"data: 1\n\n")
    assert events.is_begun
    events.add_header(b"too", b"late")
    names = dict(client.headers)
    assert names[b"content-type"].startswith(b"text/event-stream")
    assert names[b"x-engine-id"] == b"a"
    assert names[b"x-accel-buffering"] == b"no"
    assert b"too" not in names
    events.end()
    events.close()
    assert (client.body, client.is_ended) == (b"data: 1\n\n", True)


async def test_a_silence_is_filled_with_comments(client: Client) -> None:
    events = stream(client, 0.02)
    async with asyncio.timeout(10):
        while client.body.count(b":") < 3:
            await asyncio.sleep(0.01)
    assert client.status == 200
    assert all(not line or line.startswith(b":") for line in client.body.split(b"\n"))
    await events.send(b"data: 1\n\n")
    assert client.has_spoken
    events.close()
    before = client.body
    await asyncio.sleep(0.1)
    assert client.body == before


async def test_a_failure_is_the_last_event(client: Client) -> None:
    events = stream(client)
    await events.send(b"data: 1\n\n")
    events.fail(EngineFailed("what went wrong"))
    events.close()
    events.close()
    last = client.body.decode().strip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["message"] == "what went wrong"
    assert error["code"] == "engine_failed"
    assert client.is_ended


async def test_a_stream_of_nothing_is_a_whole_answer(client: Client) -> None:
    events = stream(client)
    events.end()
    events.close()
    assert (client.status, client.body, client.is_ended) == (200, b"", True)
