"""What goes whole to one engine, and what goes in pieces to all."""

import pytest
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, field, file, running_router

from vllm_router.audio.wav import silence
from vllm_router.requests.transcribe import ENGINE_FILE_BYTES


async def uploads_of(seconds: float, rate_hz: int = 16_000, **settings: object) -> list[Heard]:
    """Return what reaches the engine of one upload of silence, in however many pieces."""
    heard: list[Heard] = []

    async def says(upload: Heard) -> Reply:
        heard.append(upload)
        return 200, verbose("so")

    chosen = {"skip_silence": False, "split_longer_than_s": 30, **settings}
    async with parrot(says) as engine, running_router(engine, **chosen) as router:
        answer = await router.upload(field("model", MODEL), file(silence(seconds, rate_hz)))
        assert answer.status_code == 200
    return heard


@pytest.mark.parametrize(
    ("seconds", "settings", "is_cut"),
    [
        (20.0, {}, False),
        (29.0, {}, False),
        (31.0, {}, True),
        (61.0, {"split": "off"}, False),
        (40.0, {"split": "always", "split_longer_than_s": 60}, True),
        (40.0, {"split_longer_than_s": 10}, True),
        (59.0, {"split_longer_than_s": 60}, False),
    ],
)
async def test_length_decides(seconds: float, settings: dict[str, object], is_cut: bool) -> None:
    sent = [upload.audio for upload in await uploads_of(seconds, **settings)]
    assert (sent != [silence(seconds)]) is is_cut
    # The samples come all, and once.
    assert sum(len(audio) - 44 for audio in sent) == len(silence(seconds)) - 44


async def test_a_file_larger_than_engines_take_is_cut_however_short() -> None:
    rate_hz = 768_000
    seconds = ENGINE_FILE_BYTES / (2 * rate_hz) + 1
    assert seconds < 60
    sent = await uploads_of(seconds, rate_hz, split_longer_than_s=60)
    assert all(len(upload.audio) < ENGINE_FILE_BYTES for upload in sent)
