"""Clients' connections, over loopback sockets: what is read, how it ends, and what is left."""

import asyncio
import contextlib
import json
import random

import pytest
from tests.server.serving import LARGE, chunked, client, get, post, serving, until

from vllm_router.errors import SpoolFull
from vllm_router.server.connection import (
    MAX_AHEAD_BYTES,
    MAX_SMALL_BODY_BYTES,
)
from vllm_router.server.head import MAX_HEAD_BYTES
from vllm_router.server.listener import Patience

SOUND = bytes(range(48, 64)) * 300


# --- reading


async def test_requests_are_answered_one_after_the_other_even_when_pipelined() -> None:
    async with serving() as served, client(served.port) as one:
        requests = [get("/a"), post("/upload", SOUND), chunked("/upload", SOUND, b"x"), get("/b")]
        one.send(b"\r\n".join(requests * 3))
        for _ in range(3):
            assert b"x-path: /a" in (await one.answer())[0]
            assert (await one.answer())[1] == SOUND
            assert (await one.answer())[1] == SOUND + b"x"
            assert b"x-path: /b" in (await one.answer())[0]
        assert len(served.listener.connections) == 1
    await served.settled()
    assert len(served.service.ended) == 12
    assert not served.service.failures


@pytest.mark.parametrize("size", [1, 2, 7, 699, 700, 701, 5000])
async def test_a_request_may_come_in_any_pieces(size: int) -> None:
    data = post("/upload", SOUND[:1500]) + chunked("/upload", b"abc", SOUND[:900]) + get("/end")
    if size == 1:
        data = post("/upload", SOUND[:9]) + chunked("/upload", b"abc", b"de") + get("/end")
    async with serving() as served, client(served.port) as one:
        answers = asyncio.ensure_future(asyncio.gather(one.answer()))
        for at in range(0, len(data), size):
            one.send(data[at : at + size])
            await asyncio.sleep(0)
            if size < 10:
                await asyncio.sleep(0)
        [(_, first)] = await answers
        second = (await one.answer())[1]
        assert b"x-path: /end" in (await one.answer())[0]
    assert data.find(first) > 0
    assert second in (b"abcde", b"abc" + SOUND[:900])
    await served.settled()


async def test_bodies_of_any_size_arrive_whole_in_whatever_pieces() -> None:
    rng = random.Random(3)
    async with serving() as served, client(served.port) as one:
        for _ in range(40):
            body = bytes(rng.choices(range(48, 64), k=rng.randrange(4000)))
            cuts = sorted(rng.randrange(len(body) + 1) for _ in range(4))
            chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
            is_chunked = rng.random() < 0.5
            data = (
                chunked("/upload", *filter(None, chunks)) if is_chunked else post("/upload", body)
            )
            at = 0
            while at < len(data):
                size = rng.choice([1, 30, 1000, 10_000])
                one.send(data[at : at + size])
                at += size
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            assert (await one.answer())[1] == body
        assert len(served.listener.connections) == 1
    await served.settled()


async def test_a_flood_of_tiny_chunks_arrives_whole() -> None:
    async with serving() as served, client(served.port) as one:
        body = SOUND * 3
        one.send(chunked("/upload", *[body[at : at + 1] for at in range(len(body))]) + get("/b"))
        assert (await one.answer())[1] == body
        assert b"x-path: /b" in (await one.answer())[0]
    await served.settled()


async def test_a_small_body_reaches_its_route() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(post("/small", b"body") + chunked("/small", b"bo", b"dy") + post("/small", b""))
        assert [(await one.answer())[1] for _ in range(3)] == [b"body", b"body", b""]


async def test_blank_lines_before_a_request_are_passed_over() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(b"\r\n\r\n")
        await asyncio.sleep(0.01)
        one.send(b"\r\n" + get("/a"))
        assert b" 200 " in (await one.answer())[0]


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(post("/upload", b"", b"Expect: 100-Continue", length=5))
        assert (await one.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.send(b"hello")
        assert (await one.answer())[1] == b"hello"
        one.send(post("/upload", b"hello", b"Expect: 100-continue"))
        assert (await one.answer())[1] == b"hello"


@pytest.mark.parametrize(
    ("path", "length", "status"), [("/refused", 5, b"400"), ("/a", 2_000_000, b"413")]
)
async def test_a_client_that_is_refused_is_not_told_to_go_on(
    path: str, length: int, status: bytes
) -> None:
    async with serving() as served, client(served.port) as one:
        one.send(post(path, b"", b"Expect: 100-continue", length=length))
        rest = await one.rest()
        assert rest.startswith(b"HTTP/1.1 " + status)
        assert rest.count(b"HTTP/1.1") == 1


# --- answers


async def test_answers_are_framed_for_whoever_asks() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get("/stream"))
        head, body = await one.answer()
        assert b"transfer-encoding: chunked" in head
        assert body == b"one two"
        one.send(get("/known"))
        assert (await one.answer())[1] == b"five!"
        one.send(get("/empty"))
        assert b"content-length" not in (await one.answer())[0]
        one.send(get("/a").replace(b"GET", b"HEAD"))
        assert b"content-length: 0" in (await one.answer())[0]
        one.send(get("/stream").replace(b"GET", b"HEAD") + get("/b"))
        assert b"chunked" in await one.reader.readuntil(b"\r\n\r\n")
        assert b"x-path: /b" in (await one.answer())[0]
        one.send(get("/stream", version=b"1.0"))
        rest = await one.rest()
        assert rest.endswith(b"connection: close\r\n\r\none two")
    async with serving() as served, client(served.port) as one:
        one.send(get("/a", b"Connection: keep-alive", version=b"1.0"))
        assert b"connection: keep-alive" in (await one.answer())[0]
        one.send(get("/a", b"Connection: close"))
        assert b"connection: close" in (await one.answer())[0]
        assert await one.rest() == b""


async def test_a_fault_is_a_500_in_the_usual_shape_and_is_reported() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get("/fault"))
        head, body = await one.answer()
        assert b" 500 " in head
        assert json.loads(body)["error"]["code"] == "internal_error"
        one.send(get("/no"))
        assert b" 400 " in (await one.answer())[0]
    assert [str(e) for e in served.service.failures] == ["a mistake of our own"]


@pytest.mark.parametrize("path", ["/late-fault", "/late-no", "/forgotten"])
async def test_an_answer_that_cannot_be_completed_is_cut(path: str) -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get(path))
        assert not (await one.rest()).endswith(b"0\r\n\r\n")
    assert len(served.service.failures) == (path == "/late-fault")
    await served.settled()


@pytest.mark.parametrize("path", ["/too-long", "/too-short", "/second-writer"])
async def test_an_answer_that_breaks_its_declared_length_ends_the_connection(path: str) -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get(path) + get("/a"))
        rest = await one.rest()
        # The client may lose what was on its way, but never reads one answer's bytes as another's.
        assert rest.count(b"HTTP/1.1") <= 1
        assert b"more" not in rest
    assert len(served.service.failures) == 1
    await served.settled()


async def test_nothing_is_written_behind_an_answer() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get("/after-the-end") + get("/a"))
        assert (await one.answer())[1] == b"five!"
        assert b"x-path: /a" in (await one.answer())[0]
    assert len(served.service.failures) == 1


# --- refusing


SMUGGLING = (
    b"POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n"
)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (SMUGGLING + b"\r\n0\r\n\r\n" + get("/smuggled"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n" + get("/smuggled"), 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n" + get("/smuggled"), 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n" + get("/smuggled"), 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
        (chunked("/upload", b"a", b"b").replace(b"1\r\nb", b"+1\r\nb") + get("/smuggled"), 400),
        (post("/small", b"", length=MAX_SMALL_BODY_BYTES + 1) + get("/smuggled"), 413),
        (chunked("/small", *[bytes(100_000)] * 12) + get("/smuggled"), 413),
        (post("/upload", b"ab\xff" + b"c" * 5000) + get("/smuggled"), 400),
        (post("/upload", b"ab\xff") + get("/smuggled"), 400),
        (chunked("/upload", b"a\xff", b"b") + get("/smuggled"), 400),
        (post("/refused", b"body") + get("/smuggled"), 400),
        (get("/refused") + get("/smuggled"), 400),
    ],
)
async def test_a_refusal_is_told_and_nothing_behind_it_is_read(data: bytes, status: int) -> None:
    for size in (len(data), max(1, len(data) // 3)):
        async with serving() as served, client(served.port) as one:
            for at in range(0, len(data), size):
                one.send(data[at : at + size])
                await asyncio.sleep(0.001)
            head, body = await one.answer()
            assert b" %d " % status in head
            assert b"connection: close" in head
            assert json.loads(body)["error"]["message"]
            # Our side is shut; the client may see the end before it has sent the rest.
            assert await one.rest() == b""
        await served.settled()
        assert "/smuggled" not in served.service.begun
        assert not served.service.failures


async def test_no_room_while_receiving_is_told() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(post("/upload", b"some", length=2000))
        await until(lambda: served.service.intakes and served.service.intakes[0].data)
        served.service.has_no_room = True
        one.send(b"more")
        assert b" 413 " in (await one.answer())[0]
    await served.settled()


# --- flushing

#: The head and first byte of a body that is flushed before the rest is read.
FLUSHED = post("/upload", b"F", length=1 + len(SOUND))


async def test_a_body_waits_for_its_flush() -> None:
    async with serving() as served, client(served.port) as one:
        served.service.gate.clear()
        one.send(FLUSHED)
        await until(lambda: served.service.intakes and served.service.intakes[0].flushes)
        one.send(SOUND)
        await asyncio.sleep(0.05)
        assert served.service.intakes[0].data == b"F"
        served.service.gate.set()
        head, body = await one.answer()
        assert body == b"F" + SOUND
        assert b"x-flushes: 1" in head
    await served.settled()


async def test_a_chunked_body_may_end_while_it_is_flushed() -> None:
    async with serving() as served, client(served.port) as one:
        served.service.gate.clear()
        one.send(chunked("/upload", b"F1", b"F2") + get("/next"))
        await until(lambda: served.service.intakes and served.service.intakes[0].flushes)
        await asyncio.sleep(0.01)
        served.service.gate.set()
        assert (await one.answer())[1] == b"F1F2"
        assert b"x-path: /next" in (await one.answer())[0]
    await served.settled()


@pytest.mark.parametrize("error", [SpoolFull("full"), OSError("broken")])
@pytest.mark.parametrize("data", [FLUSHED, chunked("/upload", b"F", b"g")])
async def test_a_failed_flush_is_told(error: Exception, data: bytes) -> None:
    async with serving() as served, client(served.port) as one:
        served.service.flush_error = error
        one.send(data)
        head, _ = await one.answer()
        assert (b" 503 " if isinstance(error, SpoolFull) else b" 500 ") in head
    await served.settled()
    assert bool(served.service.failures) == isinstance(error, OSError)


@pytest.mark.parametrize("data", [FLUSHED, chunked("/upload", b"F", b"g")])
async def test_a_client_may_leave_while_its_body_is_flushed(data: bytes) -> None:
    async with serving() as served:
        async with client(served.port) as one:
            served.service.gate.clear()
            one.send(data)
            await until(lambda: served.service.intakes and served.service.intakes[0].flushes)
            await asyncio.sleep(0.01)
            served.listener.abort()
        served.service.gate.set()
        await served.settled()
        assert len(served.service.ended) == 1
        assert served.service.ended[0].has_left


async def test_a_body_may_be_refused_while_it_is_flushed() -> None:
    async with serving(Patience(body_s=5)) as served, client(served.port) as one:
        served.service.gate.clear()
        one.send(post("/upload", b"F", length=2000))
        await until(lambda: served.service.intakes and served.service.intakes[0].flushes)
        served.service.skew_s += 6
        served.listener.sweep()
        assert b" 408 " in (await one.answer())[0]
        assert not served.service.intakes[0].closed
        served.service.gate.set()
        await until(lambda: served.service.intakes[0].closed)
    await served.settled()


# --- leaving

EXCHANGE = post("/upload/hang", SOUND[:800])


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_may_leave_at_every_point(how: str) -> None:
    points = [*range(0, 120, 7), *range(120, len(EXCHANGE), 97), len(EXCHANGE)]
    async with serving() as served:
        for point in points:
            async with client(served.port) as one:
                one.send(EXCHANGE[:point])
                await until(lambda: served.listener.connections)
                await asyncio.sleep(0.002)
                if how == "reset":
                    one.reset()
            await served.settled()
        service = served.service
        assert service.cancelled == 1
        assert len(service.ended) == len(service.begun)
        assert all(exchange.has_left or exchange.status == 400 for exchange in service.ended)
        assert not service.failures


@pytest.mark.parametrize("ahead", [0, 1000, MAX_AHEAD_BYTES * 4])
async def test_leaving_is_noticed_whatever_was_sent_ahead(ahead: int) -> None:
    async with serving() as served:
        async with client(served.port) as one:
            one.send(EXCHANGE + b"x" * ahead)
            await until(lambda: "/upload/hang" in served.service.begun)
            await asyncio.sleep(0.02)
        await until(lambda: served.service.cancelled)
        await served.settled()
        assert served.service.ended[0].has_left


@pytest.mark.parametrize("adopts", [True, False])
@pytest.mark.parametrize("size", [1000, 16 * 1024, 100_000, 128 * 1024, 500_000])
async def test_first_bytes_stay_where_they_came_if_they_are_many(size: int, adopts: bool) -> None:
    unwelcome = bytes.maketrans(b"\xffF", b"ab")
    bodies = [random.Random(size + i).randbytes(size).translate(unwelcome) for i in range(3)]
    async with serving() as served, client(served.port) as one:
        served.service.adopts = adopts
        for body in bodies:
            one.send(post("/upload", body))
            _, answer = await one.answer()
            assert answer == body
        adopted = sum(intake.adopted for intake in served.service.intakes)
        assert adopted <= (3 if adopts and size >= 16 * 1024 else 0)
    await served.settled()


@pytest.mark.parametrize("ahead", [1, 50, 5000])
async def test_what_follows_an_upload_in_its_own_memory_is_the_next_request(ahead: int) -> None:
    body = bytes(300_000)
    rest = get("/next")
    async with serving() as served, client(served.port) as one:
        one.send(post("/upload", body)[: -len(body)])
        await until(lambda: served.service.begun)
        one.send(body + rest + b"\r\n" * ahead)
        assert (await one.answer())[1] == body
        assert b"x-path: /next" in (await one.answer())[0]
        assert served.service.begun == ["/upload", "/next"]
    await served.settled()


async def test_what_was_sent_too_far_ahead_is_dropped_with_the_connection() -> None:
    async with serving() as served, client(served.port) as one:
        served.service.gate.clear()
        one.send(get("/hang"))
        await until(lambda: served.service.begun)
        one.send(get("/smuggled") * (MAX_AHEAD_BYTES // 30))
        await asyncio.sleep(0.02)
        [connection] = served.listener.connections
        assert connection.will_close
        assert "HANG" not in repr(connection)
        assert "ANSWER" in repr(connection)
    await served.settled()
    assert "/smuggled" not in served.service.begun


async def test_who_sends_too_far_ahead_still_gets_the_answer_to_the_first_request() -> None:
    """Closing at once resets a connection with unread bytes, and takes the answer with it."""
    async with serving() as served, client(served.port) as one:
        served.service.gate.clear()
        one.send(get("/gated"))
        await until(lambda: served.service.begun)
        one.send(bytes(40_000_000))
        [connection] = served.listener.connections
        await until(lambda: connection.will_close)
        served.service.gate.set()
        await until(lambda: served.service.ended)
        await asyncio.sleep(0.05)
        head, body = await one.answer()
        assert b"connection: close" in head.lower()
        assert body == b"open"
    await served.settled()


async def test_a_task_that_never_began_leaves_nothing() -> None:
    async with serving() as served:
        async with client(served.port) as one:
            one.send(EXCHANGE)
            await until(lambda: served.listener.connections)
            # Cut in the same step as the body's end is read, before the answer's first step.
            [connection] = served.listener.connections
            while not served.service.begun:
                await asyncio.sleep(0)
            connection.connection_lost(None)
        await until(lambda: served.service.ended)
        assert [intake.closed for intake in served.service.intakes] == [1]


async def test_a_small_request_is_answered_after_its_client_has_shut_its_side() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(get("/stream"))
        one.writer.write_eof()
        assert (await one.rest()).endswith(b"0\r\n\r\n")
    await served.settled()


async def test_a_body_that_ends_early_is_told() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(post("/upload", b"short", length=100))
        one.writer.write_eof()
        assert b" 400 " in (await one.rest())
    await served.settled()


async def test_a_head_that_ends_early_is_closed() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(b"GET / HTT")
        one.writer.write_eof()
        assert await one.rest() == b""


# --- patience


async def test_every_patience_runs_out() -> None:
    patience = Patience(head_s=5, idle_s=10, body_s=20)
    async with serving(patience) as served, contextlib.AsyncExitStack() as stack:
        silent, slow, idle, body = [
            await stack.enter_async_context(client(served.port)) for _ in range(4)
        ]
        slow.send(b"GET / HT")
        idle.send(get("/a"))
        body.send(post("/upload", b"begun", length=100))
        await idle.answer()
        await until(lambda: len(served.service.begun) == 2)
        await asyncio.sleep(0.02)
        served.listener.sweep()
        assert len(served.listener.connections) == 4

        served.service.skew_s += 6
        slow.send(b"T")
        await asyncio.sleep(0.02)
        served.listener.sweep()
        assert await silent.rest() == b""
        assert b" 408 " in await slow.rest()
        idle.send(get("/a"))
        await idle.answer()

        served.service.skew_s += 11
        served.listener.sweep()
        assert await idle.rest() == b""
        body.send(b"more")
        await asyncio.sleep(0.02)

        served.service.skew_s += 21
        served.listener.sweep()
        assert b" 408 " in await body.rest()
    await served.settled()


async def test_a_refused_client_that_goes_on_sending_is_cut_in_the_end() -> None:
    async with serving() as served, client(served.port) as one:
        one.send(post("/refused", b"x", length=10_000_000))
        assert b" 400 " in (await one.answer())[0]
        one.send(bytes(100_000))
        await asyncio.sleep(0.02)
        assert len(served.listener.connections) == 1
        served.service.skew_s += 11
        served.listener.sweep()
        await served.settled()


@pytest.mark.parametrize("lines", [[b"Connection: close"], []])
async def test_a_long_answer_may_be_taken_slowly(lines: list[bytes]) -> None:
    async with (
        serving(Patience(idle_s=5, body_s=5)) as served,
        client(served.port, limit=1 << 16) as one,
    ):
        one.send(get("/large", *lines))
        await until(lambda: served.service.ended)
        [connection] = served.listener.connections
        await one.reader.readuntil(b"\r\n\r\n")
        for _ in range(3):
            unsent = connection._unsent_bytes()
            await one.reader.readexactly(3_000_000)
            await until(lambda before=unsent: connection._unsent_bytes() < before)
            served.service.skew_s += 6
            served.listener.sweep()
        await one.reader.readexactly(LARGE - 9_000_000)
        if not lines:
            one.send(get("/b"))
            assert b"x-path: /b" in await one.reader.readuntil(b"x-path: /b")


@pytest.mark.parametrize("lines", [[b"Connection: close"], []])
async def test_a_client_that_takes_nothing_is_cut(lines: list[bytes]) -> None:
    async with (
        serving(Patience(idle_s=5, body_s=5)) as served,
        client(served.port, limit=1 << 10) as one,
    ):
        one.send(get("/large", *lines))
        await until(lambda: served.service.ended)
        await asyncio.sleep(0.05)
        for _ in range(3):
            served.service.skew_s += 6
            served.listener.sweep()
            await asyncio.sleep(0.01)
        await served.settled()


async def test_a_client_that_takes_nothing_of_a_stream_is_cut() -> None:
    async with serving(Patience(body_s=5)) as served, client(served.port, limit=1 << 10) as one:
        one.send(get("/endless"))
        await until(lambda: any(c.write_waiter for c in served.listener.connections))

        def has_ended() -> bool:
            # The kernel may take some more before its buffers are full, which counts as progress.
            served.service.skew_s += 6
            served.listener.sweep()
            return bool(served.service.ended)

        await until(has_ended)
        await served.settled()
        assert served.service.ended[0].has_left


async def test_a_stream_goes_on_when_its_client_takes_more() -> None:
    async with serving(Patience(body_s=5)) as served, client(served.port, limit=1 << 16) as one:
        one.send(get("/endless"))
        for _ in range(3):
            await until(lambda: any(c.write_waiter for c in served.listener.connections))
            while any(c.write_waiter for c in served.listener.connections):
                await one.reader.read(1 << 20)
            served.service.skew_s += 6
            served.listener.sweep()
        assert served.listener.connections


async def test_a_client_that_asks_and_takes_nothing_fills_no_memory() -> None:
    async with serving() as served, client(served.port, limit=1 << 10) as one:
        one.send(get("/large") * 5)
        await until(lambda: served.service.ended)
        await asyncio.sleep(0.1)
        assert len(served.service.ended) == 1
        size = 0
        while size < 5 * LARGE:
            size += len(await one.reader.read(1 << 20))
        await until(lambda: len(served.service.ended) == 5)
