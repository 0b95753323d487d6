"""The engines' HTTP server, over loopback sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from vllm_router.local.api import PlainBody
from vllm_router.local.http1 import HEAD_BYTES, Body, Exchange, Shape
from vllm_router.local.serving import Port


class Echo:
    """Answers with what it got; the path orders anything else."""

    def __init__(self) -> None:
        self.left_count = 0
        self.shape: Shape | None = None

    def begin(self, exchange: Exchange) -> Body:
        if exchange.head.path == "/reset-upload":
            exchange.reset_upload_at = int(exchange.head.query)
        return PlainBody()

    def left(self, exchange: Exchange) -> None:
        self.left_count += 1

    async def answer(self, exchange: Exchange) -> None:
        exchange.shape = self.shape
        path = exchange.head.path
        if path == "/hang":
            await exchange.hang()
        elif path == "/break":
            raise RuntimeError("a mistake of the service")
        elif path == "/stream":
            await exchange.stream(200, "text/event-stream")
            for piece in (b"one", b"two"):
                await exchange.send(piece)
            await exchange.finish()
        elif path == "/large":
            await exchange.respond(200, bytes(20_000_000))
        elif path == "/too-much":
            status = 400 if exchange.error else 200
            await exchange.respond(status, str(exchange.error).encode(), "text/plain")
        else:
            body = exchange.body
            assert isinstance(body, PlainBody)
            await exchange.respond_json(
                200,
                {"method": exchange.head.method, "body": body.data.decode(), "path": path},
                headers={"X-Told": "yes"},
            )


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head, await self.reader.readexactly(length)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Echo, Port]]:
    echo = Echo()
    port = Port(echo, "127.0.0.1", 0)
    await port.listen()
    try:
        yield echo, port
    finally:
        await port.shut()


@contextlib.asynccontextmanager
async def client(port: Port) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def get(path: str, extra: bytes = b"") -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\nHost: test\r\n" + extra + b"\r\n"


def start(target: str, header: bytes) -> bytes:
    """Return the head of a POST."""
    return b"POST " + target.encode() + b" HTTP/1.1\r\nHost: test\r\n" + header + b"\r\n\r\n"


async def test_requests_are_answered_one_after_the_other_even_when_pipelined() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/a") + get("/b"))
        first, second = await one.answer(), await one.answer()
    assert b'"path":"/a"' in first[1]
    assert b'"path":"/b"' in second[1]
    assert b"X-Told: yes" in first[0]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_request_may_come_in_any_pieces(size: int) -> None:
    request = (
        b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    async with serving() as (_, port), client(port) as one:
        for at in range(0, len(request), size):
            one.send(request[at : at + size])
            await asyncio.sleep(0)
        assert b'"body":"abc"' in (await one.answer())[1]


async def test_a_client_that_expects_a_go_ahead_gets_it() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(
            b"POST /a HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        assert b"100 Continue" in await one.reader.readuntil(b"\r\n\r\n")
        one.send(b"x")
        assert b'"body":"x"' in (await one.answer())[1]


async def test_connection_close_is_honoured() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/a", b"Connection: close\r\n"))
        assert b"connection: close" in (await one.answer())[0]
        assert await one.reader.read() == b""


async def test_a_head_request_gets_no_body() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/a").replace(b"GET", b"HEAD") + get("/b"))
        await one.reader.readuntil(b"\r\n\r\n")
        assert b'"path":"/b"' in (await one.answer())[1]


async def test_a_stream_comes_in_chunks() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/stream"))
        text = await one.reader.readuntil(b"0\r\n\r\n")
    assert text.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_what_is_not_http_is_refused() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"400 Bad Request" in await one.reader.read()


async def test_endless_headers_are_refused() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (HEAD_BYTES // 6 + 10))
        assert b"431 " in await one.reader.read()


async def test_an_endless_pipeline_is_cut_off() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/hang") * 30)
        assert await one.reader.read() == b""


async def test_a_body_that_is_too_large_for_the_route_is_told_to_the_service() -> None:
    async with serving() as (_, port), client(port) as one:
        body = bytes(3 << 20)
        one.send(
            b"POST /too-much HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        head, text = await one.answer()
    assert b" 400 " in head
    assert b"too large" in text


async def test_a_mistake_of_the_service_is_a_500_and_the_connection_lives() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/break") + get("/a"))
        assert b"500 Internal" in (await one.answer())[0]
        assert b"200 OK" in (await one.answer())[0]


async def test_the_service_hears_when_a_client_leaves_while_it_works() -> None:
    async with serving() as (echo, port):
        async with client(port) as one:
            one.send(get("/hang"))
            while not port.open_connections:
                await asyncio.sleep(0.01)
        while not echo.left_count:
            await asyncio.sleep(0.01)


async def test_the_service_hears_when_a_client_leaves_in_the_upload() -> None:
    async with serving() as (echo, port):
        async with client(port) as one:
            one.send(start("/a", b"Content-Length: 5") + b"ab")
            await one.writer.drain()
            await asyncio.sleep(0.05)
        while not echo.left_count:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_is_waited_for() -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(get("/large") + get("/a"))
        _, body = await one.answer()
        assert len(body) == 20_000_000
        assert b'"path":"/a"' in (await one.answer())[1]


@pytest.mark.parametrize("at", [0, 1, 4])
async def test_an_upload_can_be_reset_at_any_byte(at: int) -> None:
    async with serving() as (_, port), client(port) as one:
        one.send(start(f"/reset-upload?{at}", b"Content-Length: 9"))
        for _ in range(9):
            one.send(b"x")
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionError):
            await one.reader.readexactly(1)


@pytest.mark.parametrize("is_reset", [True, False])
@pytest.mark.parametrize("at", [0, 1, 30, 90])
async def test_an_answer_can_be_cut_at_any_byte(at: int, is_reset: bool) -> None:
    async with serving() as (echo, port), client(port) as one:
        echo.shape = Shape(cut_at=at, cut_by_reset=is_reset)
        one.send(get("/a"))
        got = b""
        try:
            while data := await one.reader.read(1000):
                got += data
        except ConnectionError:
            assert is_reset
        assert len(got) == at or (is_reset and len(got) < at)


async def test_an_answer_can_stall_trickle_lie_and_swell() -> None:
    async with serving() as (echo, port):
        echo.shape = Shape(hang_at=20)
        async with client(port) as one:
            one.send(get("/a"))
            assert len(await one.reader.readexactly(20)) == 20
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.reader.read(1), 0.05)
        echo.shape = Shape(bytes_per_s=2000)
        async with client(port) as one:
            one.send(get("/a"))
            assert len(await one.reader.read(1000)) < 100
            await one.reader.readuntil(b"}")
        echo.shape = Shape(length_off_by=7)
        async with client(port) as one:
            one.send(get("/a"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.answer(), 0.05)
        echo.shape = Shape(padding_bytes=40_000)
        async with client(port) as one:
            one.send(get("/a"))
            assert len((await one.answer())[0]) > 39_000
