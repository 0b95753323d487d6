"""An answer in the hands of whoever asked for it."""

import asyncio

import pytest
from tests.upstream.calls import call
from tests.upstream.raw_engine import http_client, raw_engine, saying

from vllm_router.upstream.answer import denial
from vllm_router.upstream.call import BadAnswer, ConnectionBroke


async def test_a_whole_answer_is_one_chunk_and_stays_whole() -> None:
    data = b"HTTP/1.1 200 OK\r\nX-One: 1\r\nX-One: 2\r\nContent-Length: 2\r\n\r\nok"
    async with raw_engine(saying(data)) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        assert (answer.header(b"x-one"), answer.header(b"x-none")) == (b"1", b"")
        assert [chunk async for chunk in answer.chunks()] == [b"ok"]
        assert await answer.read() == b"ok"
        answer.close()


async def test_a_closed_answer_has_no_more_to_say_and_gives_its_connection_back_once() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000)
    async with raw_engine(saying(data)) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        answer.close()
        answer.close()
        with pytest.raises(ConnectionBroke, match="closed"):
            await answer.next_chunk()


async def test_a_large_answer_is_streamed_and_may_be_read_within_bounds() -> None:
    data = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n"
    data += bytes(3_000_000)
    async with raw_engine(saying(data)) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        assert answer.body is None
        assert await answer.read() == bytes(3_000_000)
        answer.close()
        answer = await call(client, engine.origin)
        with pytest.raises(BadAnswer, match="larger"):
            await answer.read(1_000_000)
        answer.close()


async def test_a_stream_that_is_broken_off_fails_for_who_waits_for_more() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
    async with raw_engine(saying(data)) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        assert await answer.next_chunk()
        assert (answer.arrivals, answer.is_awaited) == (1, False)
        waiting = asyncio.ensure_future(answer.next_chunk())
        await asyncio.sleep(0.01)
        assert answer.is_awaited
        answer.break_off("it was taken out")
        with pytest.raises(ConnectionBroke, match="it was taken out") as error:
            await waiting
        assert not error.value.is_at_work
        answer.close()
        answer.break_off("twice")


def test_only_what_speaks_of_access_is_a_denial() -> None:
    denied = {status for status in range(100, 600) if denial(status) is not None}
    assert denied == {401, 403, 407, *range(300, 400)}
