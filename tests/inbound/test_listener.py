"""What all connections share; each by itself is tested in test_connection."""

import contextlib

from tests.inbound.serving import client, get, post, serving, until

from vllm_router.inbound.listener import Listener

SOUND = bytes(range(48, 64)) * 300
#: The head and first byte of a body that is flushed before the rest is read.
FLUSHED = post("/upload", b"F", length=1 + len(SOUND))


async def test_more_connections_than_allowed_are_cut() -> None:
    async with (
        serving(max_connections=2) as served,
        client(served.port) as one,
        client(served.port) as two,
        client(served.port) as three,
    ):
        assert await three.rest() == b""
        for each in (one, two):
            each.send(get("/a"))
            assert b" 200 " in (await each.answer())[0]


async def test_draining_closes_the_idle_and_lets_the_others_finish() -> None:
    async with serving() as served, client(served.port) as idle, client(served.port) as busy:
        idle.send(get("/a"))
        await idle.answer()
        served.service.gate.clear()
        busy.send(FLUSHED)
        await until(lambda: len(served.service.begun) == 2)
        served.listener.drain()
        assert await idle.rest() == b""
        served.service.gate.set()
        busy.send(SOUND)
        head, body = await busy.answer()
        assert b"connection: close" in head
        assert body == b"F" + SOUND
        assert await busy.rest() == b""
    await served.settled()


async def test_aborting_cuts_everything() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get("/hang"))
        await until(lambda: served.service.begun)
        served.listener.abort()
        assert await one.rest() == b""
        await until(lambda: served.service.cancelled)


async def test_a_thousand_idle_connections_cost_next_to_nothing() -> None:
    async with serving() as served, contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(client(served.port))
        await until(lambda: len(served.listener.connections) == 300)
        async with client(served.port) as one:
            one.send(get("/a"))
            assert b" 200 " in (await one.answer())[0]
        assert len(served.listener.scratch) == 128 * 1024
        assert isinstance(served.listener, Listener)
    await served.settled()
