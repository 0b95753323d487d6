"""Good files whose headers were changed: never a fault, never a length that decoding denies."""

import asyncio
import os
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.audio_files import KINDS, audio_folder, make_kind
from tests.end_to_end.test_files import SETTINGS, Engine
from tests.requests.parrots import parrot
from tests.routers import MODEL, TRANSCRIPTIONS, field, file, form, named, running_router

from vllm_router.audio.decoding.decoder import AudioDecoder, memory_file
from vllm_router.errors import UnreadableAudio
from vllm_router.local.errors import ApiError

__all__ = ["audio_folder"]


@dataclass(frozen=True, slots=True)
class Beside:
    """A router, an engine and a decoder of the test's own, in a thread."""

    url: str
    decoder: AudioDecoder
    loop: asyncio.AbstractEventLoop

    def measured(self, data: bytes) -> float | None:
        """Return a file's length by decoding it; None if it cannot be decoded."""
        return asyncio.run_coroutine_threadsafe(self._measured(data), self.loop).result(60)

    async def _measured(self, data: bytes) -> float | None:
        fd = memory_file(data)
        try:
            stream = self.decoder.pieces(fd, only_length=True)
            async for _ in stream:
                pass
        except UnreadableAudio:
            return None
        finally:
            os.close(fd)
        return stream.length_s


class ApartEngine(Engine):
    """Decodes in a process of its own, since some of these files end a decoder."""

    async def length_s(self, audio: bytes) -> float:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _LENGTH, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
        said, _ = await child.communicate(audio)
        if not said:
            raise ApiError(400, "No decoder survives it.")
        return float(said)


_LENGTH = """
import sys
from vllm_router.local.audio import RATE_HZ, decode
print(len(decode(sys.stdin.buffer.read())) / RATE_HZ)
"""


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    loop = asyncio.new_event_loop()
    started: list[Beside] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        chosen = {**SETTINGS, "api_key": ()}
        async with (
            parrot(ApartEngine()) as engine,
            running_router(engine, **chosen) as router,
            AudioDecoder(max_workers=1, vad="off") as decoder,
        ):
            started.append(Beside(router.url, decoder, loop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_header_neither_breaks_nor_lies(
    data: st.DataObject, beside: Beside, audio_folder: Path
) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    whole = bytearray(make_kind(audio_folder, kind, 3.3).read_bytes())
    # Headers stand at the start, in some containers at the end.
    near = st.integers(0, min(len(whole) - 1, 600))
    place = st.one_of(near, near.map(lambda at: len(whole) - 1 - at))
    changes = st.lists(st.tuples(place, st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=6)
    for at, value in data.draw(changes):
        whole[at] = value
    body = form(field("model", MODEL), field("response_format", "verbose_json"), file(bytes(whole)))
    answer = httpx.post(beside.url + TRANSCRIPTIONS, content=body, headers=named({}), timeout=90)
    assert answer.status_code in (200, 400), answer.text
    length_s = beside.measured(bytes(whole))
    if answer.status_code == 200 and length_s is not None:
        told = answer.json()
        assert told["duration"] == pytest.approx(length_s, abs=0.05)
        assert all(part["end"] <= length_s + 0.05 for part in told["segments"])
