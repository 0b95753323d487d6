"""Bad engines: no upload fails while a good one is there, nothing leaks, no tale is believed."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.end_to_end.leftovers import UPLOAD, client, held, is_served, nothing_left, served
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, RunningRouter, field, file, form, request, until
from tests.upstream.raw_engine import Peer, Script, raw_engine

from vllm_router.audio.wav import silence
from vllm_router.requests.event_stream import KEEP_ALIVE_S

WORDS = b'{"text": "words", "usage": {"type": "duration", "seconds": 1}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
WHOLE = HEAD % len(WORDS) + WORDS
MODELS = b'{"object": "list", "data": [{"id": "%b", "object": "model"}]}' % MODEL.encode()


def acting(act: Script) -> Script:
    """Be well to questions, and act on uploads."""

    async def script(peer: Peer) -> None:
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                body = MODELS if b"/v1/models" in head else b""
                await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                continue
            await act(peer)
            if peer.writer.is_closing():
                return

    return script


@contextlib.asynccontextmanager
async def good_and_bad(**faults: Any) -> AsyncIterator[tuple[RunningRouter, SimulatedHandle]]:
    """Run a router in front of a good engine and one that shows faults."""
    async with (
        serve_simulated(MODEL, time_scale=1000) as good,
        serve_simulated(MODEL, time_scale=1000) as bad,
        served(good, bad, routing_logic="roundrobin", read_timeout_s=1) as router,
    ):
        await bad.order(**faults)
        yield router, bad


FAULTS: dict[str, dict[str, Any]] = {
    "refuses": {"refuse": True},
    "resets after the head": {"reset_upload_at": 0},
    "resets in the upload": {"reset_upload_at": 1000},
    "hangs in the upload": {"hang": "upload", "times": 2},
    "hangs before its answer": {"hang": "answer", "times": 2},
    "hangs in its answer": {"hang": "body", "times": 2},
    "answers garbage": {"garbage": True},
    "sends a megabyte of headers": {"header_bytes": 1_000_000},
    "breaks off in its head": {"cut_answer_at": 30},
    "breaks off in its body": {"cut_answer_at": 200},
    "closes in its body": {"cut_answer_at": 200, "cut_by": "close"},
    "declares too much": {"length_off_by": 10, "times": 3},
    "answers 502": {"status": 502},
    "answers 503": {"status": 503},
    "answers 500": {"status": 500},
    "answers a byte at a time": {"answer_bytes_per_s": 200.0, "times": 2},
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
async def test_no_upload_fails_while_there_is_a_good_engine(faults: dict[str, Any]) -> None:
    async with good_and_bad(**faults) as (router, _):
        answers = await asyncio.gather(*[router.upload() for _ in range(6)])
        assert [answer.status_code for answer in answers] == [200] * 6
        assert all(answer.json()["text"] for answer in answers)
        await nothing_left(router, 20)


async def test_an_engine_that_declares_too_little_spoils_no_other_answer() -> None:
    async with good_and_bad(length_off_by=-10) as (router, _):
        answers = [await router.upload() for _ in range(8)]
        # What it declared is what its client gets; its rest reaches nobody.
        assert all(answer.status_code in (200, 502) for answer in answers)
        whole = [answer for answer in answers if answer.content.endswith(b"}")]
        assert len(whole) >= 4
        assert all(answer.content.startswith(b'{"text"') for answer in answers)


class Breaking:
    """Acts on one upload in three, so that the engine is not taken out, and answers the others."""

    def __init__(self, act: Script) -> None:
        self._act = act
        self._count = 0

    async def __call__(self, peer: Peer) -> None:
        self._count += 1
        if self._count % 3 == 0:
            await self._act(peer)
            return
        await peer.reader.readuntil(b"--\r\n")
        await peer.say(WHOLE)


@contextlib.asynccontextmanager
async def good_and_breaking(act: Script) -> AsyncIterator[RunningRouter]:
    """Run a router in front of a good engine and one that breaks one upload in three."""
    async with (
        serve_simulated(MODEL, time_scale=1000) as good,
        raw_engine(acting(Breaking(act))) as bad,
        served(good, f"http://127.0.0.1:{bad.port}", routing_logic="roundrobin") as router,
    ):
        yield router


async def all_are_served(router: RunningRouter) -> None:
    answers = await asyncio.gather(*[router.upload() for _ in range(8)])
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all(answer.json()["text"] for answer in answers)


@pytest.mark.parametrize("how", ["reset", pytest.param("close", marks=pytest.mark.slow)])
async def test_an_engine_may_break_at_every_byte_of_its_answer(how: str) -> None:
    point = 0

    async def act(peer: Peer) -> None:
        nonlocal point
        await peer.reader.readuntil(b"--\r\n")
        await peer.say(WHOLE[:point])
        point += 1
        if how == "reset":
            await asyncio.sleep(0.002)
            peer.reset()
        else:
            peer.close()

    async with good_and_breaking(act) as router, asyncio.timeout(60):
        while point < len(WHOLE):
            await all_are_served(router)


async def test_an_engine_may_reset_at_many_points_of_the_upload() -> None:
    points = [*range(0, 400, 20), *range(400, 32_000, 2000)]
    reached = 0

    async def act(peer: Peer) -> None:
        nonlocal reached
        await peer.reader.readexactly(points[reached % len(points)])
        reached += 1
        peer.reset()

    async with good_and_breaking(act) as router, asyncio.timeout(60):
        while reached < len(points):
            await all_are_served(router)


LIES: dict[str, dict[str, Any]] = {
    "idle": {"metrics": "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"},
    "less than idle": {"metrics": "vllm:num_requests_running -1e9\n"},
    "not a number": {"metrics": "vllm:num_requests_running NaN\nvllm:num_requests_waiting NaN\n"},
    "infinitely busy": {"metrics": "vllm:num_requests_waiting +Inf\n"},
    "very busy": {"metrics": "vllm:num_requests_running 1e308\nvllm:num_requests_waiting 1e308\n"},
    "nonsense": {"metrics": "\x00{{{\n" * 1000},
    "much": {"metrics": "x 1\n" * 500_000},
    "no models": {"models": ()},
    "other models": {"models": ("another/model",)},
    "odd models": {"models": ("a\nb", "", "\ud800")},
    "too many models": {"models": tuple(f"m{i}" for i in range(5000))},
}


@pytest.mark.parametrize("faults", LIES.values(), ids=LIES)
async def test_an_engine_that_lies_does_no_harm(faults: dict[str, Any]) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as good,
        serve_simulated(MODEL, time_scale=1000) as liar,
        served(good, liar) as router,
    ):
        await liar.order(**faults)
        # Some rounds of questions.
        await asyncio.sleep(0.7)
        answers = await asyncio.gather(*[router.upload() for _ in range(12)])
        assert [answer.status_code for answer in answers] == [200] * 12
        for path in ("/engines", "/metrics", "/v1/models", "/ready", "/health"):
            assert (await router.client.get(path)).status_code == 200
        await router.metrics()


async def test_one_poisonous_upload_does_not_take_the_fleet_down() -> None:
    async with contextlib.AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(serve_simulated(MODEL, time_scale=1000))
            for _ in range(3)
        ]
        router = await stack.enter_async_context(served(*engines))
        for engine in engines:
            await engine.order(poison="POISON")
        poison = [field("model", MODEL), file(silence(1.0) + b"POISON")]
        for _ in range(15):
            answer = await router.upload(*poison)
            assert answer.status_code == 500
            assert "error" in answer.json()
        assert [view["state"] for view in await router.engines()] == ["ready"] * 3
        assert await is_served(router)


async def test_an_engine_that_flaps_fails_nobody() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as good,
        serve_simulated(MODEL, time_scale=1000) as flapping,
        served(good, flapping) as router,
    ):
        is_over = False

        async def flap() -> None:
            while not is_over:
                await flapping.kill()
                await asyncio.sleep(0.3)
                await flapping.restart()
                await asyncio.sleep(0.3)

        task = asyncio.create_task(flap())
        deadline = asyncio.get_running_loop().time() + 3
        count = 0
        while asyncio.get_running_loop().time() < deadline:
            answers = await asyncio.gather(*[router.upload() for _ in range(8)])
            assert [answer.status_code for answer in answers] == [200] * 8
            count += 8
        is_over = True
        await task
        assert count >= 8


async def test_with_no_good_engine_the_error_is_honest_and_soon() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as bad,
        served(bad, read_timeout_s=0.5) as router,
    ):
        for faults, statuses in (
            ({"garbage": True}, {502}),
            ({"cut_answer_at": 30}, {502}),
            ({"hang": "answer"}, {504}),
            ({"refuse": True}, {502, 503}),
        ):
            await bad.order(**faults)
            answer = await router.upload()
            assert answer.status_code in statuses | {503}, faults
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            await bad.order()
            await until(lambda: router.router.dispatcher.fleet.is_ready(MODEL))
            await until(lambda: not any(held(router).values()))
            assert await is_served(router)


async def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    async with (
        serve_simulated(MODEL, time_scale=50) as bad,
        served(bad) as router,
    ):
        for kind in ("openai", "vllm"):
            await bad.order(cut_answer_at=700, times=1)
            answer = await router.upload(
                field("model", MODEL),
                field("stream", "true"),
                file(silence(25.0)),
                x_stream_format=kind,
            )
            assert answer.status_code == 200
            assert "error" in answer.text.strip().split("\n\n")[-1]


async def test_a_slow_client_of_a_large_answer_frees_the_engine_first() -> None:
    large = b'{"text": "%b"}' % (b"w" * 1_900_000)

    async def act(peer: Peer) -> None:
        await peer.reader.readuntil(b"--\r\n")
        await peer.say(HEAD % len(large) + large)
        await peer.left()

    async with raw_engine(acting(act)) as engine:
        url = f"http://127.0.0.1:{engine.port}"
        async with served(url) as router, client(router.port, limit=1 << 10) as slow:
            slow.send(UPLOAD)
            await slow.reader.readuntil(b"\r\n\r\n")
            await until(lambda: not any(held(router).values()))
            assert await slow.reader.readexactly(len(large)) == large


async def test_a_slow_answer_without_events_has_no_keep_alive_written_into_it() -> None:
    """It is too large to be read before it is passed on, and pauses for longer than keep-alive."""
    large = b'{"text": "%b"}' % (b"w" * 65 * 2**20)

    async def act(peer: Peer) -> None:
        await peer.reader.readuntil(b"--\r\n")
        await peer.say(HEAD % len(large) + large[:-1000])
        await asyncio.sleep(KEEP_ALIVE_S + 1)
        await peer.say(large[-1000:])
        await peer.left()

    upload = request(form(field("model", MODEL), field("stream", "true"), file(silence(1.0))))
    async with raw_engine(acting(act)) as engine:
        url = f"http://127.0.0.1:{engine.port}"
        async with served(url) as router, client(router.port) as one:
            one.send(upload + b"GET /version HTTP/1.1\r\nHost: r\r\n\r\n")
            assert (await one.answer())[1] == large
            # The next answer begins where this one was declared to end.
            head, body = await one.answer()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"version" in body


JSON = (b"application/json", b'{"text": " one two"}')
TEXT = (b"text/plain; charset=utf-8", b"one two\n")


@pytest.mark.parametrize(("kind", "said"), [JSON, TEXT], ids=["json", "text"])
async def test_a_late_answer_without_events_ends_the_stream_that_has_begun(
    kind: bytes, said: bytes
) -> None:
    """Some engines ignore `stream`; their words are not lost because comments came first."""

    async def act(peer: Peer) -> None:
        await peer.reader.readuntil(b"--\r\n")
        await asyncio.sleep(KEEP_ALIVE_S + 1)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        await peer.say(head % (kind, len(said)) + said)
        await peer.left()

    upload = [field("model", MODEL), field("stream", "true"), file(silence(1.0))]
    async with raw_engine(acting(act)) as engine:
        url = f"http://127.0.0.1:{engine.port}"
        async with served(url) as router:
            answer = await router.upload(*upload)
    comment, *lines = answer.text.split("\n\n")
    assert comment == ": keep-alive"
    delta, done = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert delta == {"type": "transcript.text.delta", "delta": "one two"}
    assert done["type"] == "transcript.text.done"
    assert done["text"] == "one two"
