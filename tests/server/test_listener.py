"""What all connections share; each by itself is tested in test_connection."""

import contextlib
import time
from email.utils import parsedate_to_datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.server.serving import Service, client, get, post, serving, until

from vllm_router.server.listener import Listener

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


async def test_every_answer_has_its_date_and_a_hint_to_go_on_has_none() -> None:
    async with serving() as served, client(served.port) as one:
        for sent in (get("/a"), get("/known"), get("/stream"), get("/empty"), get("/no")):
            one.send(sent)
            head, _ = await one.answer()
            [line] = [line for line in head.split(b"\r\n") if line.startswith(b"date: ")]
            assert abs(parsedate_to_datetime(line[6:].decode()).timestamp() - time.time()) < 10
        one.send(post("/upload", b"", b"Expect: 100-continue", length=5))
        assert b"date" not in await one.reader.readuntil(b"\r\n\r\n")
        one.send(b"hello")
        await one.answer()
        one.send(b"rubbish\r\n\r\n")
        head, _ = await one.answer()
        assert b" 400 " in head
        assert b"\r\ndate: " in head


@given(
    start=st.floats(0, 2e9),
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=20),
)
def test_a_date_is_never_more_than_a_second_old(start: float, steps: list[float]) -> None:
    clock = [start]
    listener = Listener(Service(), wall_clock=lambda: clock[0])
    now = 5.0
    for step in steps:
        now += step
        clock[0] += step
        line = listener.date_line(now)
        told = parsedate_to_datetime(line.decode().removeprefix("date: ").strip()).timestamp()
        assert told - 0.01 <= clock[0] < told + 1.01


async def test_errors_before_a_request_can_be_read_have_the_headers_for_them() -> None:
    async with serving() as served, client(served.port) as one:
        served.listener.early_headers = [(b"x-early", b"1")]
        one.send(b"rubbish\r\n\r\n")
        assert b"\r\nx-early: 1\r\n" in (await one.answer())[0]


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
