"""Engines die and come back under load, and no request fails."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.audio_files import make_kind
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, TRANSCRIPTIONS, field, file, form, named, running_router

from vllm_router.audio.wav import silence

REQUESTS = 2000
AT_A_TIME = 24
KILL_EVERY_S = 2.0


async def kill_and_restart(engines: list[SimulatedHandle]) -> None:
    """Kill the one after the other, each for half of its time."""
    number = 0
    while True:
        engine = engines[number % len(engines)]
        await asyncio.sleep(KILL_EVERY_S / 2)
        await engine.kill()
        await asyncio.sleep(KILL_EVERY_S / 2)
        await engine.restart()
        number += 1


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_request_of_2000_fails_while_engines_are_killed(tmp_path: Path) -> None:
    """WAV with a length, mp3 in chunks with the file first, one to be put into another format, and
    one large enough for the disk."""
    small = form(field("model", MODEL), file(silence(2.0)))
    mp3 = make_kind(tmp_path, "mp3_cbr", 5.0).read_bytes()
    compressed = form(file(mp3, "a.mp3"), field("model", MODEL))
    converted = form(field("model", MODEL), field("response_format", "text"), file(silence(3.0)))
    large = form(field("model", MODEL), file(silence(25.0)))

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(compressed), 8192):
            yield compressed[at : at + 8192]

    wrong: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(serve_simulated(MODEL, time_scale=100, seed=seed))
            for seed in range(3)
        ]
        router = await stack.enter_async_context(
            running_router(*engines, spool_memory_mb=4, access_log=False)
        )
        limits = httpx.Limits(max_connections=AT_A_TIME)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=router.url, timeout=60, limits=limits)
        )
        numbers = iter(range(REQUESTS))
        sent = (silence(2.0), mp3, silence(3.0), silence(25.0))
        expected = [hashlib.sha256(audio).hexdigest()[:8] for audio in sent]

        async def ask(number: int) -> None:
            kind = number % 4
            content = (small, chunks(), converted, large)[kind]
            answer = await client.post(TRANSCRIPTIONS, content=content, headers=named({}))
            if answer.status_code != 200:
                wrong.append(f"{kind}: {answer.status_code} {answer.text}")
            elif expected[kind] not in answer.text:
                wrong.append(f"{kind}: another's words: {answer.text}")

        async def work() -> None:
            for number in numbers:
                await ask(number)

        killer = asyncio.create_task(kill_and_restart(engines))
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(work())
        killer.cancel()
        assert wrong == []
        fleet = router.router.dispatcher.fleet
        assert sum(e.in_flight for e in fleet.engines()) == 0
        assert sum(s.open_uploads for s in router.router.spools) == 0
