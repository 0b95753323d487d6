"""The queue in front of the model."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from tests.local.models import QuickModel

from vllm_router.audio.wav import silence
from vllm_router.local.errors import ApiError
from vllm_router.local.transcriber import CpuTranscriber
from vllm_router.local.whisper import Options


@pytest.fixture
async def transcriber() -> AsyncIterator[CpuTranscriber]:
    one = CpuTranscriber(QuickModel())
    yield one
    one.close()


async def test_chunks_of_a_recording_keep_their_order(transcriber: CpuTranscriber) -> None:
    recording = await transcriber.open(silence(100.0), Options(language="en"))
    whole = await recording.transcribe()
    assert [round(chunk.start_s) for chunk in whole] == [0, 29, 58, 87]
    assert [chunk async for chunk in recording.stream()] == whole
    assert (recording.language, recording.duration_s) == ("en", 100.0)


async def test_an_unknown_language_is_refused(transcriber: CpuTranscriber) -> None:
    with pytest.raises(ApiError, match="'fr'") as caught:
        await transcriber.open(silence(1.0), Options(language="fr"))
    assert caught.value.param == "language"


async def test_work_runs_one_at_a_time_and_first_come_first_served(
    transcriber: CpuTranscriber,
) -> None:
    release, order = threading.Event(), []
    first = asyncio.create_task(transcriber.run(release.wait))
    others = []
    for number in range(3):
        await asyncio.sleep(0)
        others.append(asyncio.create_task(transcriber.run(lambda n=number: order.append(n))))
    await asyncio.sleep(0)
    assert (transcriber.running, transcriber.waiting) == (1, 3)
    others[1].cancel()
    await asyncio.sleep(0)
    assert transcriber.waiting == 2
    release.set()
    await asyncio.gather(first, others[0], others[2])
    assert order == [0, 2]
    assert (transcriber.running, transcriber.waiting) == (0, 0)


async def test_a_cancelled_caller_leaves_the_turn_to_its_work(transcriber: CpuTranscriber) -> None:
    release = threading.Event()
    first = asyncio.create_task(transcriber.run(release.wait))
    while not transcriber.running:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(transcriber.run(lambda: "second"))
    await asyncio.sleep(0.01)
    assert (transcriber.running, transcriber.waiting) == (1, 1)
    release.set()
    assert await second == "second"
