"""Charges for audio whose header lies and whose answer tells no length."""

from pathlib import Path

import pytest
from tests.audio_files import make
from tests.requests.parrots import Heard, Reply, parrot
from tests.routers import MODEL, field, file, running_router, until

from vllm_router.audio.wav import silence

USED = 'vllm_router_key_audio_seconds_total{key="key-1"}'
EVENTS = (
    b'data: {"object": "transcription.chunk", "choices": [{"delta": {"content": "words"}}]}\n\n'
    b'data: {"object": "transcription.chunk", "choices": [{"delta": {"content": ""}, '
    b'"finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


async def says(heard: Heard) -> Reply:
    return 200, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENTS


@pytest.fixture
def lying(tmp_path: Path) -> bytes:
    """Return 22 s of MP4 whose index tells of the first fragment alone, as Chromium writes it."""
    options = ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov+default_base_moof"]
    path = make(tmp_path / "a.mp4", 22.0, [*options, "-frag_duration", "500000"])
    data = bytearray(path.read_bytes())
    for name, at in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16), (b"mehd", 4)):
        start = data.find(name)
        if start >= 0:
            data[start + 4 + at : start + 8 + at] = (20).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("events", ["openai", "vllm"])
async def test_the_decoder_tells_what_a_stream_does_not(lying: bytes, events: str) -> None:
    # Nothing is cut, so that the engine has to take what its header lies about.
    settings = {"api_key": "k", "key_audio_s_per_minute": 30, "split": "off"}
    async with parrot(says) as url, running_router(url, **settings) as router:
        parts = [field("model", MODEL), field("stream", "true"), file(lying, "a.mp4")]
        statuses = []
        for _ in range(3):
            answer = await router.upload(*parts, Authorization="Bearer k", X_Stream_Format=events)
            statuses.append(answer.status_code)
            lengths = router.router.service._transcriber._services.lengths
            await until(lambda lengths=lengths: not len(lengths), "it is still measured")
        assert statuses == [200, 200, 429]
        assert (await router.metrics())[USED] == pytest.approx(44, abs=1)


async def test_a_wav_and_an_upload_without_a_key_are_not_measured(lying: bytes) -> None:
    async with parrot(says) as url, running_router(url, api_key="k") as router:
        parts = [field("model", MODEL), field("stream", "true"), file(silence(2.0))]
        assert (await router.upload(*parts, Authorization="Bearer k")).status_code == 200
        assert not len(router.router.service._transcriber._services.lengths)
    async with parrot(says) as url, running_router(url) as router:
        parts = [field("model", MODEL), field("stream", "true"), file(lying, "a.mp4")]
        assert (await router.upload(*parts)).status_code == 200
        assert not len(router.router.service._transcriber._services.lengths)
