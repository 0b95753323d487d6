"""Slow and rude clients: refused or waited for, others are served meanwhile, nothing leaks."""

import asyncio
import contextlib
import gc
import json
import random

import pytest
from tests.end_to_end.leftovers import (
    UPLOAD,
    at_work,
    client,
    held,
    is_served,
    nothing_left,
    one_engine,
    served,
    sockets,
)
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, field, file, form, request, until

from vllm_router.audio.wav import silence

LARGE = request(form(file(random.Random(1).randbytes(9_000_000)), field("model", MODEL)))


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_leaving_at_every_point_leaves_nothing(how: str) -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine, served(engine) as router:
        await engine.order(delay_s=30)
        gc.collect()
        before = sockets(router)
        points = [*range(0, 420, 13), *range(420, len(UPLOAD), 4001), len(UPLOAD) - 1, len(UPLOAD)]
        for point in points:
            async with client(router.port) as one:
                one.send(UPLOAD[:point])
                await asyncio.sleep(0.01)
                if point == len(UPLOAD):
                    await until(lambda: at_work(engine))
                if how == "reset":
                    one.reset()
        await nothing_left(router)
        await until(lambda: not at_work(engine))
        await engine.order()
        assert await is_served(router)
        await until(lambda: sockets(router) <= before + 2)


async def test_a_client_that_leaves_frees_the_engine_within_a_second() -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine, served(engine) as router:
        await engine.order(hang="answer")
        async with client(router.port) as one:
            one.send(UPLOAD)
            await until(lambda: at_work(engine))
            assert held(router)["charges"] == 1
        async with asyncio.timeout(1):
            while at_work(engine) or held(router)["charges"]:
                await asyncio.sleep(0.005)
        await engine.order()


async def test_leaving_in_the_midst_of_a_stream_leaves_nothing() -> None:
    async with serve_simulated(MODEL, time_scale=20) as engine, served(engine) as router:
        stream = request(form(field("model", MODEL), field("stream", "true"), file(silence(25.0))))
        for size in (1, 200, 400):
            async with client(router.port) as one:
                one.send(stream)
                await one.reader.readexactly(size)
            await nothing_left(router)
        await until(lambda: not at_work(engine))


async def test_leaving_the_queue_leaves_nothing() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        served(engine, engine_max_windows=1) as router,
    ):
        await engine.order(hang="answer")
        async with client(router.port) as first:
            first.send(UPLOAD)
            await until(lambda: at_work(engine))
            for _ in range(5):
                async with client(router.port) as one:
                    one.send(UPLOAD)
                    await until(lambda: router.router.dispatcher.slots.waiting)
                await until(lambda: not router.router.dispatcher.slots.waiting)
        await nothing_left(router)
        await engine.order()
        assert await is_served(router)


async def test_leaving_while_the_upload_is_spooled_leaves_nothing() -> None:
    async with one_engine(spool_memory_mb=1) as (router, _):
        for point in (100_000, 400_000, 5_000_000, len(LARGE) - 1):
            async with client(router.port) as one:
                one.send(LARGE[:point])
                await one.writer.drain()
                await asyncio.sleep(0.02)
            await nothing_left(router)
        assert await is_served(router)


async def test_a_byte_at_a_time_is_waited_for() -> None:
    upload = request(form(field("model", MODEL), file(silence(0.01))))
    async with one_engine() as (router, _), client(router.port) as slow:
        for at in range(len(upload)):
            slow.send(upload[at : at + 1])
            await asyncio.sleep(0)
            if at % 100 == 0:
                assert await is_served(router)
        assert b" 200 " in (await slow.answer())[0]


async def test_heads_that_never_end_are_refused() -> None:
    async with one_engine() as (router, _):
        for lines in (b"X: y\r\n" * 100_000, b"X: " + b"y" * 5_000_000):
            async with client(router.port) as one:
                one.send(b"GET / HTTP/1.1\r\n" + lines)
                head, body = await one.answer()
                assert b" 431 " in head
                assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert await is_served(router)


async def test_patience_with_heads_and_bodies_ends() -> None:
    async with one_engine(client_head_timeout_s=0.3, client_body_timeout_s=0.3) as (router, _):
        async with client(router.port) as head, client(router.port) as body:
            head.send(b"POST /v1/audio/transcriptions HT")
            body.send(UPLOAD[:-100])
            assert b" 408 " in (await head.answer())[0]
            assert b" 408 " in (await body.answer())[0]
            assert await is_served(router)
        async with client(router.port) as silent:
            assert await silent.rest() == b""


async def test_bodies_shorter_or_longer_than_declared() -> None:
    body = form(field("model", MODEL), file(silence(1.0)))
    async with one_engine() as (router, _):
        async with client(router.port) as short:
            short.send(request(body, length=len(body) + 10))
            short.writer.write_eof()
            assert b" 400 " in (await short.answer())[0]
        async with client(router.port) as long:
            long.send(request(body, length=len(body) - 10))
            assert b" 400 " in (await long.answer())[0]
            # The ten bytes too many are no request.
            long.send(b"\r\n\r\n")
            assert b" 400 " in (await long.answer())[0]
        assert await is_served(router)


async def test_two_framings_are_refused_and_nothing_behind_them_is_read() -> None:
    smuggled = b"0\r\n\r\nGET /engines HTTP/1.1\r\nHost: x\r\n\r\n"
    twice = request(smuggled, headers=[("Transfer-Encoding", "chunked")])
    async with one_engine() as (router, engine):
        async with client(router.port) as one:
            one.send(twice)
            answers = await one.rest()
        assert answers.count(b"HTTP/1.1 ") == 1
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert not engine.log.audio()[1:]


async def test_a_thousand_idle_connections_are_in_nobodys_way() -> None:
    async with one_engine() as (router, _), contextlib.AsyncExitStack() as stack:
        for _ in range(1000):
            await stack.enter_async_context(client(router.port))
        await until(lambda: len(router.router.listener.connections) >= 1000)
        assert await is_served(router)
        assert held(router)["memory"] == 0


async def test_many_half_sent_uploads_are_in_nobodys_way() -> None:
    async with (
        one_engine(spool_memory_mb=1) as (router, _),
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(100):
            one = await stack.enter_async_context(client(router.port))
            one.send(LARGE[:70_000])
        await until(lambda: held(router)["uploads"] == 100)
        assert await is_served(router)


async def test_a_full_spool_is_refused_in_words_and_others_are_served() -> None:
    async with one_engine(spool_memory_mb=1, spool_max_mb=1) as (router, _):
        async with client(router.port) as one:
            one.send(LARGE)
            head, body = await one.answer()
        assert b" 503 " in head or b" 507 " in head
        assert b"retry-after" in head.lower()
        assert json.loads(body)["error"]["message"]
        assert await is_served(router)


async def test_uploads_that_are_too_large_are_refused_before_they_have_come() -> None:
    async with one_engine(max_upload_mb=1) as (router, engine):
        engine.log.clear()
        chunks = b"".join(b"10000\r\n" + bytes(65536) + b"\r\n" for _ in range(40))
        head = UPLOAD.partition(b"\r\n\r\n")[0]
        lines = [line for line in head.split(b"\r\n") if b"Content-Length" not in line]
        chunked = b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""])
        form_head = form(file(b"x")).partition(b"x\r\n--")[0]
        first = b"%x\r\n%b\r\n" % (len(form_head), form_head)
        for data in (LARGE[:1000], chunked + first + chunks):
            async with client(router.port) as one:
                one.send(data)
                answer, _ = await one.answer()
                assert b" 413 " in answer
        assert not engine.log.audio()


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_rude_clients_leaves_nothing(seed: int) -> None:
    rng = random.Random(seed)
    async with one_engine(spool_memory_mb=1) as (router, engine):
        gc.collect()
        before = sockets(router)

        async def rude() -> None:
            upload = rng.choice([UPLOAD, UPLOAD * 2, LARGE])
            point = rng.randrange(len(upload) + 1)
            async with client(router.port) as one:
                one.send(upload[:point])
                if rng.random() < 0.5:
                    with contextlib.suppress(ConnectionError):
                        await one.writer.drain()
                await asyncio.sleep(rng.random() * 0.05)
                if rng.random() < 0.5:
                    one.reset()

        for _ in range(4):
            storm = [rude() for _ in range(25)]
            *_, fine = await asyncio.gather(*storm, *[is_served(router) for _ in range(3)])
            assert fine
        await nothing_left(router, 10)
        await until(lambda: not at_work(engine))
        await until(lambda: sockets(router) <= before + 8)
