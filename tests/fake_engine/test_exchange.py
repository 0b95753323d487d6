"""Answers, whole and spoilt, over loopback sockets."""

import asyncio

import pytest
from tests.fake_engine.echo import client, get, serving
from tests.fake_engine.exchange import Shape


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
