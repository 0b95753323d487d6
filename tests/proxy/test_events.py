"""A stream begins late, is kept alive, ends truly, and knows when it first said something."""

import asyncio
from typing import Any, cast

import pytest
from tests.routers import until

from vllm_router.errors import EngineFailed
from vllm_router.inbound.exchange import Exchange
from vllm_router.proxy.events import EventStream


class FakeExchange:
    """An exchange that keeps what is written to it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.written: list[bytes] = []
        self.is_complete = False
        self.first_byte_at: float | None = None

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status, self.headers = status, headers
        self.first_byte_at = asyncio.get_running_loop().time()

    def speak(self) -> None:
        self.first_byte_at = asyncio.get_running_loop().time()

    def write(self, data: bytes) -> None:
        self.written.append(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def end(self) -> None:
        self.is_complete = True


def stream_to(exchange: FakeExchange, keep_alive_s: float = 60.0) -> EventStream:
    return EventStream(cast(Exchange, exchange), keep_alive_s)


async def test_the_head_goes_with_the_first_event() -> None:
    exchange = FakeExchange()
    stream = stream_to(exchange)
    stream.add_header(b"x-engine-id", b"e")
    await stream.send(b"")
    assert not stream.is_begun
    await stream.send(b"data: 1\n\n")
    stream.add_header(b"too", b"late")
    stream.end()
    stream.close()
    stream.close()
    assert exchange.status == 200
    assert (b"x-engine-id", b"e") in exchange.headers
    assert (b"too", b"late") not in exchange.headers
    assert exchange.written == [b"data: 1\n\n"]
    assert exchange.is_complete


async def test_a_silent_stream_is_kept_alive_until_it_is_closed() -> None:
    exchange = FakeExchange()
    stream = stream_to(exchange, keep_alive_s=0.01)
    await until(lambda: len(exchange.written) >= 2)
    stream.close()
    count = len(exchange.written)
    assert all(data.startswith(b":") for data in exchange.written)
    await asyncio.sleep(0.05)
    assert len(exchange.written) == count


async def test_the_first_event_counts_and_not_what_kept_the_stream_alive() -> None:
    exchange = FakeExchange()
    stream = stream_to(exchange, keep_alive_s=0.01)
    await until(lambda: exchange.written)
    kept_alive_at = exchange.first_byte_at
    await asyncio.sleep(0.02)
    await stream.send(b"data: 1\n\n")
    spoken_at = exchange.first_byte_at
    await stream.send(b"data: 2\n\n")
    stream.close()
    assert kept_alive_at is not None
    assert spoken_at is not None
    assert kept_alive_at < spoken_at == exchange.first_byte_at


@pytest.mark.parametrize("events", [0, 1])
async def test_a_failure_is_an_event_and_an_end(events: int) -> None:
    exchange = FakeExchange()
    stream: Any = stream_to(exchange)
    for _ in range(events):
        await stream.send(b"data: 1\n\n")
    stream.fail(EngineFailed("It broke off."))
    stream.close()
    assert b"It broke off." in exchange.written[-1]
    assert b"engine_failed" in exchange.written[-1]
    assert exchange.is_complete
