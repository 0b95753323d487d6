"""The engines' HTTP connections, over loopback sockets."""

import asyncio

import pytest
from tests.fake_engine.connection import HEAD_BYTES
from tests.fake_engine.echo import client, get, serving, start


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
