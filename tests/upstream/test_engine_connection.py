"""One connection to an engine that says exactly what it is told, on both loops."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.conftest import event_loop_policy
from tests.upstream.raw_engine import (
    OK,
    Peer,
    Script,
    answering,
    http_client,
    raw_engine,
    saying,
    until,
)

from vllm_router.upstream.call import (
    BadAnswer,
    Body,
    BytesBody,
    CallFailed,
    CallTimedOut,
    ConnectionBroke,
    Deadlines,
    NotConnected,
)
from vllm_router.upstream.engine_connection import MAX_HEAD_BYTES
from vllm_router.upstream.origin import Origin

__all__ = ["event_loop_policy"]

from tests.upstream.calls import BIG, EVENTS, SlowBody, call

# --- what comes back

WHOLE = {
    "a length": (OK, b"ok"),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\n"
        b"X-Trailer: t\r\nContent-Type: text/event-stream\r\n\r\n",
        b"ok",
    ),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "a length of nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "interim answers first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"ok",
    ),
    "an odd status": (b"HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok", b"ok"),
}


@pytest.mark.parametrize(("data", "body"), WHOLE.values(), ids=WHOLE)
async def test_an_answer_is_read_in_whatever_pieces(data: bytes, body: bytes) -> None:
    pieces = [data[at : at + 1] for at in range(len(data))]
    for script in (saying(data), saying(*pieces)):
        async with raw_engine(script) as engine, http_client() as client:
            answer = await call(client, engine.origin)
            assert answer.body == body
            assert await answer.read() == body
            assert [chunk async for chunk in answer.chunks()] == [body]
            assert all(name not in (b"x-trailer", b"link") for name, _ in answer.headers)
            answer.close()
            answer.close()
            assert client.open_connections == 1


async def test_a_body_may_end_with_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it"
    async with raw_engine(saying(data, then="close")) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        assert (answer.body, answer.header(b"content-type")) == (b"all of it", b"text/plain")
        assert answer.header(b"x-none") == b""
        answer.close()
        await until(lambda: not client.open_connections)


@pytest.mark.parametrize("then", ["reset", "wait"])
async def test_a_body_until_the_end_that_never_ends_well_is_no_answer(then: str) -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nhalf of"
    deadlines = Deadlines(20, 20, 0.3 if then == "wait" else 20)
    async with raw_engine(saying(data, then=then)) as engine, http_client() as client:
        with pytest.raises(CallTimedOut if then == "wait" else ConnectionBroke):
            await call(client, engine.origin, deadlines=deadlines)
        await until(lambda: not client.open_connections)


BROKEN = {
    "no status": b"HTTP/1.1 002 OK\r\nContent-Length: 2\r\n\r\nok",
    "another protocol": b"\x16\x03\x01\x00 this is not HTTP\r\n\r\n",
    "an older one": b"hello\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a broken chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000,
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 20),
    "a trailer without end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: "
        + b"y" * 1_000_000
    ),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_answer_is_told_apart(data: bytes) -> None:
    async with raw_engine(saying(data)) as engine, http_client() as client:
        with pytest.raises(BadAnswer):
            await call(client, engine.origin)
        await until(lambda: not client.open_connections)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_an_engine_may_break_at_every_byte_of_its_answer(how: str) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX-A: b\r\n\r\ntwelve bytes"
    scripts = [saying(data[:end], then=how) for end in range(len(data))]
    async with raw_engine(*scripts) as engine, http_client() as client:
        for _ in range(len(data)):
            with pytest.raises(ConnectionBroke):
                await call(client, engine.origin)
        assert engine.connections == len(data)
        await until(lambda: not client.open_connections)


@pytest.mark.parametrize("is_slow", [False, True])
async def test_an_engine_may_reset_at_every_point_of_the_request(is_slow: bool) -> None:
    data = b"b" * 300_000

    def breaking_at(count: int) -> Script:
        async def script(peer: Peer) -> None:
            await peer.reader.readexactly(count)
            peer.reset()

        return script

    points = [0, 1, 20, 60, 80, 100, 1000, 100_000, 299_999]
    scripts = [breaking_at(point) for point in points]
    async with raw_engine(*scripts) as engine, http_client() as client:
        for _ in points:
            body: Body = SlowBody(data) if is_slow else BytesBody(data)
            with pytest.raises(ConnectionBroke):
                await call(client, engine.origin, body)
        await until(lambda: not client.open_connections)


@pytest.mark.parametrize("length", [0, 1, 4])
async def test_a_wrong_length_spoils_no_other_answer(length: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nwords" % length
    async with raw_engine(saying(data), answering) as engine, http_client() as client:
        first = await call(client, engine.origin)
        assert first.body == b"words"[:length]
        first.close()
        second = await call(client, engine.origin)
        assert second.body == b"ok"
        second.close()
        assert engine.connections == 2


@pytest.mark.parametrize(
    "extra",
    [
        b"x",
        b"HTTP/1.1 500 Another\r\nX-Other: y\r\nContent-Length: 6\r\n\r\nleaked",
        b"HTTP/1.1 500",
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
async def test_bytes_behind_an_answer_reach_nobody(extra: bytes, is_late: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if is_late:
            await peer.say(OK)
            await asyncio.sleep(0.02)
            await peer.say(extra)
        else:
            await peer.say(OK + extra)
        await peer.left()

    async with raw_engine(script, answering) as engine, http_client() as client:
        first = await call(client, engine.origin)
        assert (first.status, first.body) == (200, b"ok")
        assert first.header(b"x-other") == b""
        first.close()
        if is_late:
            await until(lambda: engine.gone == 1)
        second = await call(client, engine.origin)
        assert (second.status, second.body) == (200, b"ok")
        second.close()
        assert engine.connections == 2


async def test_an_answer_to_a_call_not_yet_given_back_is_spoilt_by_more() -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await more.wait()
        await peer.say(OK)
        await peer.left()

    async with raw_engine(script, answering) as engine, http_client() as client:
        first = await call(client, engine.origin)
        more.set()
        await asyncio.sleep(0.05)
        assert first.body == b"ok"
        first.close()
        (await call(client, engine.origin)).close()
        assert engine.connections == 2


# --- early answers


@pytest.mark.parametrize("is_slow", [False, True])
async def test_an_answer_may_come_before_the_upload_is_sent(is_slow: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.sleep(30)

    async with raw_engine(script, answering) as engine, http_client() as client:
        body = SlowBody(BIG * 8) if is_slow else BytesBody(BIG * 8)
        answer = await call(client, engine.origin, body)
        assert (answer.status, answer.body) == (413, b"big")
        answer.close()
        await until(lambda: not client.open_connections)
        if isinstance(body, SlowBody):
            assert body.is_closed
            assert body.given < 400


@pytest.mark.parametrize("is_slow", [False, True])
async def test_an_engine_that_ends_its_side_in_the_middle_of_an_upload_is_left_at_once(
    is_slow: bool,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write_eof()
        await asyncio.sleep(30)

    async with raw_engine(script) as engine, http_client() as client:
        body: Body = SlowBody(BIG * 8) if is_slow else BytesBody(BIG * 8)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionBroke):
                await call(client, engine.origin, body)
            await until(lambda: not client.open_connections)


async def test_an_engine_that_takes_no_more_after_its_end_is_left() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\n\r\nbig")
        peer.writer.write_eof()
        await asyncio.sleep(30)

    async with raw_engine(script) as engine, http_client() as client:
        answer = await call(client, engine.origin, BytesBody(BIG * 8), Deadlines(5, 5, 5))
        assert (answer.status, answer.body) == (413, b"big")
        answer.close()
        await until(lambda: not client.open_connections)


async def test_an_early_stream_has_a_deadline_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(EVENTS + b"5\r\nfirst\r\n")
        await asyncio.sleep(30)

    async with raw_engine(script) as engine, http_client() as client:
        answer = await call(client, engine.origin, SlowBody(BIG * 8), Deadlines(20, 20, 0.3))
        assert answer.body is None
        with pytest.raises(CallTimedOut):
            await answer.read()
        answer.close()


# --- streams


async def test_events_come_as_they_are_sent() -> None:
    step = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(EVENTS)
            for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"):
                await step.acquire()
                await peer.say(piece)

    async with raw_engine(script) as engine, http_client() as client:
        for _ in range(2):
            step.release()
            answer = await call(client, engine.origin)
            assert answer.body is None
            chunks = answer.chunks()
            assert await anext(chunks) == b"one"
            step.release()
            assert await anext(chunks) == b"two"
            step.release()
            assert [chunk async for chunk in chunks] == []
            answer.close()
        assert engine.connections == 1


async def test_a_stream_that_breaks_before_its_first_event_is_a_failure_of_the_call() -> None:
    async with raw_engine(saying(EVENTS, then="close")) as engine, http_client() as client:
        with pytest.raises(ConnectionBroke):
            await call(client, engine.origin)


@pytest.mark.parametrize(
    ("end", "error"),
    [("close", ConnectionBroke), ("reset", ConnectionBroke), ("zz\r\n", BadAnswer)],
)
async def test_a_stream_that_breaks_off_says_so_after_what_came(
    end: str, error: type[CallFailed]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(EVENTS + b"5\r\nfirst\r\n")
        await asyncio.sleep(0.05)
        if end == "close":
            peer.close()
        elif end == "reset":
            peer.reset()
        else:
            await peer.say(end.encode())
            await peer.left()

    async with raw_engine(script) as engine, http_client() as client:
        answer = await call(client, engine.origin)
        chunks = answer.chunks()
        assert await anext(chunks) == b"first"
        with pytest.raises(error):
            await anext(chunks)
        answer.close()
        with pytest.raises(ConnectionBroke, match="closed"):
            await answer.read()


async def test_a_reader_that_takes_its_time_makes_the_engine_wait_and_not_fail() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.say(EVENTS)
        for _ in range(600):
            await peer.say(b"10000\r\n" + bytes(65536) + b"\r\n")
            sent += 65536
        await peer.say(b"0\r\n\r\n")

    async with raw_engine(script) as engine, http_client() as client:
        answer = await call(client, engine.origin, deadlines=Deadlines(20, 20, 0.2))
        await asyncio.sleep(0.6)
        assert sent < 600 * 65536
        size = 0
        async for chunk in answer.chunks():
            size += len(chunk)
            assert len(chunk) < 1 << 20
        assert size == 600 * 65536
        answer.close()


# --- time


async def test_a_silent_engine_is_given_up() -> None:
    async with raw_engine(saying()) as engine, http_client() as client:
        with pytest.raises(CallTimedOut, match="no answer"):
            await call(client, engine.origin, deadlines=Deadlines(20, 20, 0.1))
        await until(lambda: engine.gone == 1)


async def test_an_engine_that_is_slow_but_not_silent_is_waited_for() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for at in range(len(OK)):
            await peer.say(OK[at : at + 1])
            await asyncio.sleep(0.03)

    async with raw_engine(script) as engine, http_client() as client:
        answer = await call(client, engine.origin, deadlines=Deadlines(20, 20, 0.5))
        assert answer.body == b"ok"
        answer.close()


@pytest.mark.parametrize("is_slow", [False, True])
async def test_an_engine_that_takes_no_more_is_given_up(is_slow: bool) -> None:
    async def script(peer: Peer) -> None:
        await asyncio.sleep(30)

    async with raw_engine(script) as engine, http_client() as client:
        body: Body = SlowBody(BIG * 8) if is_slow else BytesBody(BIG * 8)
        with pytest.raises(CallTimedOut, match="read no more"):
            await call(client, engine.origin, body, Deadlines(20, 0.2, 20))


@pytest.mark.parametrize("is_slow", [False, True])
async def test_an_engine_that_takes_an_upload_slowly_is_waited_for(is_slow: bool) -> None:
    async def script(peer: Peer) -> None:
        left = len(BIG) * 2
        await peer.reader.readuntil(b"\r\n\r\n")
        while left:
            left -= len(await peer.reader.read(min(left, 500_000)))
            await asyncio.sleep(0.01)
        await peer.say(OK)

    async with raw_engine(script) as engine, http_client() as client:
        body: Body = SlowBody(BIG * 2) if is_slow else BytesBody(BIG * 2)
        answer = await call(client, engine.origin, body, Deadlines(20, 2, 20))
        assert answer.body == b"ok"
        answer.close()


async def test_an_engine_that_cannot_be_reached_got_nothing() -> None:
    async with raw_engine(answering) as engine:
        port = engine.port
    async with http_client() as client:
        for url in (f"http://127.0.0.1:{port}", "http://a..b:80", f"http://{'x' * 70}.test"):
            with pytest.raises(NotConnected):
                await call(client, Origin.of(url))
    assert client.open_connections == 0


async def test_connecting_has_a_deadline() -> None:
    with contextlib.ExitStack() as stack:
        # A full backlog: the kernel answers no further connection.
        listening = stack.enter_context(__import__("socket").socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(8):
            filler = stack.enter_context(__import__("socket").socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        async with http_client() as client:
            with pytest.raises(NotConnected, match="within"):
                await call(
                    client, Origin.of(f"http://127.0.0.1:{address[1]}"), None, Deadlines(0.2, 1, 1)
                )


# --- anything at all


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"Content-Length: 2\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"\r\n",
                b"ok",
                b"0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"\x00",
                b"Content-Type: text/event-stream\r\n",
            ]
        )
        | st.binary(max_size=20),
        max_size=8,
    ),
    st.sampled_from(["close", "reset"]),
)
def test_no_answer_at_all_brings_it_down(pieces: list[bytes], how: str) -> None:
    async def main() -> None:
        async with raw_engine(saying(*pieces, then=how)) as engine, http_client() as client:
            with contextlib.suppress(CallFailed):
                answer = await call(client, engine.origin)
                with contextlib.suppress(CallFailed):
                    await answer.read()
                answer.close()

    asyncio.run(main())
