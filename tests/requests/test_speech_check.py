"""Short uploads whose answers are implausible, and containers that engines cannot read."""

import asyncio
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.end_to_end.test_long import talk
from tests.requests.parrots import Heard, Reply, parrot
from tests.requests.test_piece_transcriber import SETTINGS, said, seconds
from tests.routers import MODEL, field, file, running_router, until

from vllm_router.audio.wav import silence

TALK = talk(22.0)


def as_m4a(wav: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.wav").write_bytes(wav)
        command = ["ffmpeg", "-v", "error", "-i", str(folder / "a.wav"), str(folder / "a.m4a")]
        subprocess.run(command, check=True)
        return (folder / "a.m4a").read_bytes()


M4A = as_m4a(TALK)


def is_wav(heard: Heard) -> bool:
    return heard.audio.startswith(b"RIFF")


@pytest.mark.parametrize("response_format", ["json", "text", "verbose_json", "srt", "vtt"])
async def test_a_short_answer_that_lacks_words_is_replaced_in_every_format(
    response_format: str,
) -> None:
    async def loses_half(heard: Heard) -> Reply:
        return 200, {"text": "Too few."} if heard.audio == TALK else said(seconds(heard))

    async with parrot(loses_half) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(
            field("model", MODEL), field("response_format", response_format), file(TALK)
        )
    assert answer.status_code == 200, answer.text
    assert answer.text.count("quick") >= 3
    assert "Too few" not in answer.text


async def test_a_plausible_answer_is_passed_on_without_a_look_at_the_audio(
    capfd: pytest.CaptureFixture[str],
) -> None:
    uploads = []

    async def says(heard: Heard) -> Reply:
        uploads.append(heard)
        return 200, {**said(22.0), "extra": "kept"}

    async with parrot(says) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), file(TALK))
    assert answer.json()["extra"] == "kept"
    assert "x-speech-coverage" not in answer.headers
    assert len(uploads) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "request_id=" in line]
    assert "speech_s" not in line
    assert "windows=1" in line


async def test_a_stream_that_lacks_words_ends_with_all_of_them() -> None:
    chunk = '{"object":"transcription.chunk","choices":[{"delta":{"content":"Too few."}}]}'
    events = f"data: {chunk}\n\ndata: [DONE]\n\n".encode()

    async def loses_half(heard: Heard) -> Reply:
        if heard.fields.get("stream") == "true":
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            return 200, head + b"Content-Length: %d\r\n\r\n" % len(events) + events
        return 200, said(seconds(heard))

    async with parrot(loses_half) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), field("stream", "true"), file(TALK))
    assert '"delta":"Too few."' in answer.text
    assert answer.text.splitlines()[-2].count("quick") >= 3


async def test_a_container_that_engines_cannot_read_is_decoded_and_that_is_remembered() -> None:
    uploads: list[Heard] = []

    async def reads_only_wav(heard: Heard) -> Reply:
        uploads.append(heard)
        if not is_wav(heard):
            return 500, {"error": {"message": "Format not recognised.", "code": 500}}
        return 200, said(seconds(heard))

    async with parrot(reads_only_wav) as url, running_router(url, **SETTINGS) as router:
        for _ in range(3):
            answer = await router.upload(field("model", MODEL), file(M4A, "a.m4a"))
            assert answer.status_code == 200, answer.text
            assert answer.json()["text"].count("quick") >= 3
        assert (await router.engines())[0]["unreadable_containers"] == ["mp4"]
    assert [is_wav(upload) for upload in uploads] == [False, True, False, True, True]


async def test_what_nobody_can_read_is_a_clear_400() -> None:
    async def reads_nothing(heard: Heard) -> Reply:
        return 500, {"error": {"message": "Format not recognised.", "code": 500}}

    async with parrot(reads_nothing) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), file(b"\x00\x01junk" * 3000))
        assert (await router.engines())[0]["unreadable_containers"] == []
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_audio"


#: One window at a time: what is asked again needs the room of the first answer.
NARROW = {**SETTINGS, "engine_max_windows": 1, "max_queue_wait_s": 5.0}


@pytest.mark.parametrize("response_format", ["json", "text", "srt"])
async def test_a_fleet_of_one_window_has_room_for_the_second_answer(response_format: str) -> None:
    async def loses_half(heard: Heard) -> Reply:
        return 200, {"text": "Too few."} if heard.audio == TALK else said(seconds(heard))

    async with parrot(loses_half) as url, running_router(url, **NARROW) as router:
        answer = await router.upload(
            field("model", MODEL), field("response_format", response_format), file(TALK)
        )
    assert answer.text.count("quick") >= 3


@pytest.mark.parametrize("more", [[], [field("stream", "true")], [field("response_format", "vtt")]])
async def test_a_fleet_of_one_window_has_room_for_what_it_refused(more: list[bytes]) -> None:
    async def reads_no_whole_file(heard: Heard) -> Reply:
        # A piece may have the very bytes of the upload.
        if heard.number == 0:
            return 400, {"error": {"message": "Format not recognised.", "code": 400}}
        return 200, said(seconds(heard))

    async with parrot(reads_no_whole_file) as url, running_router(url, **NARROW) as router:
        answer = await router.upload(field("model", MODEL), *more, file(M4A, "a.m4a"))
    assert answer.status_code == 200
    assert answer.text.count("quick") >= 3


async def test_a_refusal_that_the_pieces_get_too_is_shown_as_it_came() -> None:
    async def refuses(heard: Heard) -> Reply:
        words = "no such thing" if heard.number == 0 else "of a piece"
        return 400, {"error": {"message": words, "type": "t", "param": None, "code": 400}}

    async with parrot(refuses) as url, running_router(url, **NARROW) as router:
        answer = await router.upload(field("model", MODEL), file(M4A, "a.m4a"))
        (engine,) = router.router.dispatcher.fleet.engines()
        await until(lambda: engine.in_flight == 0)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "no such thing"
    assert answer.headers["x-engine-id"] == url


@pytest.mark.parametrize("response_format", ["json", "verbose_json"])
async def test_the_first_answer_stays_where_no_second_can_be_had(response_format: str) -> None:
    async def fails_later(heard: Heard) -> Reply:
        if heard.number == 0:
            return 200, {"text": "Too few."}
        return 400, {"error": {"message": "no more today"}}

    async with parrot(fails_later) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(
            field("model", MODEL), field("response_format", response_format), file(TALK)
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == "Too few."


async def test_a_client_that_leaves_while_its_answer_is_checked_leaves_no_engine_charged() -> None:
    is_asked_again = asyncio.Event()

    async def hangs_later(heard: Heard) -> Reply:
        if heard.number:
            is_asked_again.set()
            await asyncio.sleep(60)
        return 400, {"error": {"message": "Format not recognised."}}

    async with parrot(hangs_later) as url, running_router(url, **SETTINGS) as router:
        upload = asyncio.create_task(router.upload(field("model", MODEL), file(M4A, "a.m4a")))
        await asyncio.wait_for(is_asked_again.wait(), 20)
        upload.cancel()
        (engine,) = router.router.dispatcher.fleet.engines()
        await until(lambda: engine.in_flight == 0)


async def test_silence_in_a_container_that_engines_cannot_read_is_no_speech() -> None:
    uploads: list[Heard] = []

    async def reads_only_wav(heard: Heard) -> Reply:
        uploads.append(heard)
        return (200, {"text": "Thank you."}) if is_wav(heard) else (400, {"error": "unreadable"})

    audio = as_m4a(silence(5.0))
    async with parrot(reads_only_wav) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), file(audio, "a.m4a"))
    assert (answer.status_code, answer.json()["text"]) == (200, "")
    assert [is_wav(upload) for upload in uploads] == [False, True]


@pytest.mark.parametrize("audio", [M4A, as_m4a(silence(5.0)), TALK, silence(5.0)])
async def test_a_refusal_for_another_reason_is_shown(audio: bytes) -> None:
    uploads: list[Heard] = []

    async def knows_no_such_language(heard: Heard) -> Reply:
        uploads.append(heard)
        return 400, {"error": {"message": "no such language", "code": 400}}

    parts = field("model", MODEL), field("language", "zz"), file(audio)
    async with parrot(knows_no_such_language) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(*parts)
        assert (await router.engines())[0]["unreadable_containers"] == []
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "no such language"
    # What the router would send is WAV too: that is not asked twice.
    assert len(uploads) == (1 if is_wav(uploads[0]) else 2)


async def test_what_is_no_transcript_is_passed_on_as_it_is() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, {"words": ["no text"]}

    async with parrot(says) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), file(TALK))
    assert (answer.status_code, answer.json()) == (200, {"words": ["no text"]})


async def test_nothing_is_claimed_of_words_that_nobody_verified() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, {"text": "Too few."}

    settings = {**SETTINGS, "verify": False, "split": "always"}
    async with parrot(says) as url, running_router(url, **settings) as router:
        answer = await router.upload(field("model", MODEL), file(TALK))
    assert answer.json()["text"] == "Too few."
    assert "x-speech-coverage" not in answer.headers
