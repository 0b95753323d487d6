"""Models whose engines are unlike vLLM with Whisper: every format, short and an hour long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.end_to_end.unlike_engines import (
    PERIOD_S,
    SENTENCE,
    Answers,
    cue_times,
    error,
    is_near_speech,
    seconds,
    speech,
    within,
    without_language,
    without_mp4,
    without_subtitles,
    without_verbose_json,
    words,
)
from tests.requests.parrots import Heard, Reply, parrot
from tests.routers import MODEL, RunningRouter, field, file, running_router

from vllm_router.audio.wav import silence

SETTINGS: dict[str, Any] = {"vad": "level", "verify": True, "split_longer_than_s": 30}
#: An upload of any length goes to an engine whole, until the engine says otherwise.
WHOLE = {**SETTINGS, "split_longer_than_s": 86_400}
FORMATS = ["json", "text", "verbose_json", "srt", "vtt"]
SHORT = speech(4)
HOUR_BURSTS = 643
#: Else a file of 25 MB would not be sent whole.
ANY_SIZE = f"{MODEL}:max_file_mb=1000"
LIMITED = within(600, 25 * 2**20)


@pytest.fixture(scope="module")
def hour() -> bytes:
    return speech(HOUR_BURSTS, 8_000)


@pytest.fixture(scope="module")
def m4a(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder: Path = tmp_path_factory.mktemp("m4a")
    (folder / "a.wav").write_bytes(speech(2))
    command = ["ffmpeg", "-v", "error", "-i", str(folder / "a.wav"), str(folder / "a.m4a")]
    subprocess.run(command, check=True)
    return (folder / "a.m4a").read_bytes()


class Serving:
    """A router before engines that answer alike, and what they got."""

    def __init__(self, router: RunningRouter, uploads: list[Heard]) -> None:
        self.router = router
        self.uploads = uploads

    async def ask(self, audio: bytes, name: str = "a.wav", **fields: str) -> httpx.Response:
        plain = [field(key.rstrip("_"), value) for key, value in fields.items()]
        return await self.router.upload(field("model", MODEL), *plain, file(audio, name))

    async def capabilities(self) -> dict[str, Any]:
        known: dict[str, Any] = (await self.router.engines())[0]["capabilities"]
        return known.get(MODEL, {})


@contextlib.asynccontextmanager
async def serving(*answers: Answers, **settings: Any) -> AsyncIterator[Serving]:
    uploads: list[Heard] = []

    def noting(answer: Answers) -> Any:
        async def says(heard: Heard) -> Reply:
            uploads.append(heard)
            return answer(heard)

        return says

    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(parrot(noting(each))) for each in answers]
        router = await stack.enter_async_context(running_router(*urls, **(settings or SETTINGS)))
        router.client.timeout = httpx.Timeout(90)
        yield Serving(router, uploads)


def words_of(response_format: str, text: str) -> list[str]:
    """Return the words of an answer in any format, of a stream those of its last event."""
    if text.startswith("data: "):
        lines = [line for line in text.splitlines() if line.startswith("data: {")]
        text = json.loads(lines[-1][6:])["text"]
    elif response_format in ("json", "verbose_json"):
        text = json.loads(text)["text"]
    if response_format in ("srt", "vtt"):
        lines = [line for line in text.splitlines() if "-->" not in line and not line.isdigit()]
        text = " ".join(line for line in lines if line != "WEBVTT")
    return text.split()


UNLIKE: dict[str, Answers] = {
    "voxtral": without_verbose_json,
    "no language": without_language,
    "old vllm": without_mp4,
    "limited": LIMITED,
    "no subtitles": without_subtitles,
}


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("answers", UNLIKE.values(), ids=UNLIKE)
async def test_a_short_upload_has_the_same_words_in_every_format(
    answers: Answers, stream: str
) -> None:
    async with serving(answers) as fleet:
        for response_format in FORMATS:
            answer = await fleet.ask(
                SHORT, response_format=response_format, stream=stream, language="de"
            )
            assert answer.status_code == 200, answer.text
            if answer.text.startswith("data: ") or stream == "false":
                assert words_of(response_format, answer.text) == SENTENCE.split() * 4
        assert all(upload.fields["response_format"] != "verbose_json" for upload in fleet.uploads)


#: One kind at each change: an hour takes a while.
UNLIKE_FOR_AN_HOUR = [
    pytest.param(answers, id=name, marks=() if name == "limited" else pytest.mark.slow)
    for name, answers in UNLIKE.items()
]


@pytest.mark.parametrize("answers", UNLIKE_FOR_AN_HOUR)
async def test_an_hour_is_transcribed(answers: Answers, hour: bytes) -> None:
    async with serving(answers) as fleet:
        answer = await fleet.ask(hour, response_format="json", language="de")
    assert answer.status_code == 200, answer.text
    assert words_of("json", answer.text) == SENTENCE.split() * HOUR_BURSTS


# Six hours of audio.
@pytest.mark.timeout(300)
async def test_an_hour_without_verbose_json_has_the_same_words_and_times_in_every_format(
    hour: bytes,
) -> None:
    async with serving(without_verbose_json, without_verbose_json) as fleet:
        for response_format in FORMATS:
            answer = await fleet.ask(hour, response_format=response_format)
            assert answer.status_code == 200, answer.text
            assert words_of(response_format, answer.text) == SENTENCE.split() * HOUR_BURSTS
            if response_format == "verbose_json":
                starts = [each["start"] for each in answer.json()["segments"]]
                assert len(starts) == HOUR_BURSTS
                for index, start_s in enumerate(starts):
                    assert abs(start_s - index * PERIOD_S) < 0.5
            if response_format in ("srt", "vtt"):
                times = cue_times(answer.text)
                assert len(times) >= HOUR_BURSTS
                assert all(is_near_speech(at_s) for cue in times for at_s in cue)
        answer = await fleet.ask(hour, response_format="srt", stream="true")
        assert answer.status_code == 200
        assert words_of("srt", answer.text) == SENTENCE.split() * HOUR_BURSTS


# What was sent, and what is learned from it.


async def test_an_engine_that_does_not_take_language_is_asked_without() -> None:
    async with serving(without_language) as fleet:
        for _ in range(3):
            answer = await fleet.ask(SHORT, language="de", response_format="verbose_json")
            assert answer.status_code == 200, answer.text
            # It is what the client said; nobody knows better.
            assert answer.json()["language"] == "de"
        sent = ["language" in upload.fields for upload in fleet.uploads]
        assert sent == [True, False, False, False]
        assert await fleet.capabilities() == {"language": False}
        # The other fields stay as they were.
        await fleet.ask(SHORT, language="de", temperature="0.5", language_="de", prompt="Fox.")
        assert fleet.uploads[-1].fields == {
            "model": MODEL, "temperature": "0.5", "prompt": "Fox.",
        }  # fmt: skip


@pytest.mark.parametrize("audio", [SHORT, speech(20)], ids=["short", "long"])
async def test_an_empty_language_is_none(audio: bytes) -> None:
    """Forms of web pages send their empty fields as well."""
    async with serving(without_language) as fleet:
        answer = await fleet.ask(audio, language=" ", prompt="Fox.")
        assert answer.status_code == 200, answer.text
        assert all("language" not in upload.fields for upload in fleet.uploads)
        assert fleet.uploads[0].fields["prompt"] == "Fox."


async def test_pieces_are_sent_without_a_language_too() -> None:
    async with serving(without_language) as fleet:
        answer = await fleet.ask(speech(20), language="de")
        assert words_of("json", answer.text) == SENTENCE.split() * 20
        first = len(fleet.uploads)
        await fleet.ask(speech(20), language="de")
        assert all("language" not in upload.fields for upload in fleet.uploads[first:])


async def test_a_language_that_does_not_exist_is_the_clients_to_know() -> None:
    def knows_two(heard: Heard) -> Reply:
        if heard.fields.get("language") not in (None, "en", "de"):
            given = heard.fields["language"]
            return error(f"Unsupported language: '{given}'.  Must be one of ['en', 'de'].")
        return words(heard)

    async with serving(knows_two) as fleet:
        answer = await fleet.ask(SHORT, language="zz")
        assert answer.status_code == 400
        assert "Unsupported language: 'zz'" in answer.json()["error"]["message"]
        assert len(fleet.uploads) == 1
        assert await fleet.capabilities() == {}


async def test_one_engine_of_two_that_refuses_a_field_is_not_believed() -> None:
    """The other one is asked, and gives what was asked for."""
    async with serving(without_language, words) as fleet:
        for _ in range(8):
            answer = await fleet.ask(SHORT, language="de")
            assert answer.status_code == 200, answer.text
        assert await fleet.capabilities() == {}
        # Whatever was refused was asked of the other engine with the language.
        assert all("language" in upload.fields for upload in fleet.uploads)


async def test_what_two_engines_refuse_is_not_sent_to_a_third() -> None:
    async with serving(*[without_language] * 3) as fleet:
        answer = await fleet.ask(SHORT, language="de")
        assert answer.status_code == 200, answer.text
        assert ["language" in upload.fields for upload in fleet.uploads] == [True, True, False]
        assert await fleet.capabilities() == {"language": False}
        await fleet.ask(SHORT, language="de")
        assert "language" not in fleet.uploads[-1].fields
        assert len(fleet.uploads) == 4


@pytest.mark.parametrize("audio", [SHORT, speech(20)], ids=["short", "long"])
async def test_two_engines_that_both_refused_an_upload_are_believed(audio: bytes) -> None:
    """Both are asked before a refusal is shown; what the first one said counts as well."""
    async with serving(without_language, without_language) as fleet:
        answer = await fleet.ask(audio, language="de")
        assert answer.status_code == 200, answer.text
        assert await fleet.capabilities() == {"language": False}
        first = len(fleet.uploads)
        await fleet.ask(audio, language="de")
        assert all("language" not in upload.fields for upload in fleet.uploads[first:])


async def test_two_engines_that_both_refused_a_length_are_believed() -> None:
    async with serving(*[within(60, 25 * 2**20)] * 2, **WHOLE) as fleet:
        answer = await fleet.ask(speech(20))
        assert answer.status_code == 200, answer.text
        assert await fleet.capabilities() == {"max_audio_s": 60.0}


@pytest.mark.parametrize("claim", ["audio longer than 31 s", "maximum file size exceeds 1 mb"])
async def test_nobody_makes_the_router_believe_in_a_limit(claim: str) -> None:
    """Pieces go without the field that is refused, so that they pass."""

    def repeats(heard: Heard) -> Reply:
        given = heard.fields.get("stream", "false")
        return words(heard) if given == "false" else error(f"'stream' is no boolean: '{given}'")

    async with serving(repeats, **WHOLE) as fleet:
        answer = await fleet.ask(speech(20), stream=claim)
        assert answer.status_code == 200, answer.text
        assert await fleet.capabilities() == {}


def repeats_what_it_refuses(heard: Heard) -> Reply:
    """Answer as vLLM, whose validation errors hold what was sent; with times of words."""
    given = heard.fields.get("temperature", "0")
    if not given.replace(".", "").isdigit():
        return error(f"[{{'type': 'float_parsing', 'loc': ('body', 'temperature'), "
                     f"'msg': 'Input should be a valid number', 'input': '{given}'}}]")  # fmt: skip
    status, said = words(heard)
    if heard.fields.get("response_format") == "verbose_json":
        said = {**said, "segments": [], "words": [{"word": "The", "start": 0.0, "end": 0.2}]}
    return status, said


@pytest.mark.parametrize("audio", [SHORT, speech(20)], ids=["short", "long"])
@pytest.mark.parametrize("engines", [1, 2])
async def test_nobody_makes_the_router_believe_that_a_format_is_refused(
    audio: bytes, engines: int
) -> None:
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    async with serving(*[repeats_what_it_refuses] * engines) as fleet:
        for _ in range(4):
            answer = await fleet.ask(audio, **asked, temperature="verbose_json")
            assert answer.status_code == 400
            # What is wrong is the temperature, and the client is told so.
            assert "temperature" in answer.json()["error"]["message"]
        assert await fleet.capabilities() == {}
        answer = await fleet.ask(audio, **asked)
        assert answer.status_code == 200, answer.text


async def test_a_language_that_the_model_lacks_is_not_taken_for_the_field() -> None:
    def knows_one(heard: Heard) -> Reply:
        if heard.fields.get("language") not in (None, "de"):
            return error(f"{heard.fields['language']} is not a supported language of the model")
        return words(heard)

    async with serving(knows_one) as fleet:
        for _ in range(2):
            answer = await fleet.ask(SHORT, language="yi")
            assert answer.status_code == 400
        assert await fleet.capabilities() == {}


@pytest.mark.parametrize("engines", [1, 2])
async def test_files_that_engines_cannot_read_say_nothing_of_their_container(
    engines: int, m4a: bytes
) -> None:
    """The router is more patient with damage than they are."""

    def reads_sound_files(heard: Heard) -> Reply:
        if heard.audio.startswith(b"RIFF") or heard.audio == m4a:
            return words(heard)
        return error("Invalid or unsupported audio file.", 500)

    async with serving(*[reads_sound_files] * engines) as fleet:
        await fleet.ask(m4a, "a.m4a")
        for _ in range(4):
            # A brand that the router does not mind.
            answer = await fleet.ask(m4a.replace(b"M4A ", b"M4X ", 1), "a.m4a")
            assert answer.status_code == 200, answer.text
        assert await fleet.capabilities() == {}


async def test_a_refusal_whose_reason_was_another_teaches_nothing() -> None:
    """It says language, and refuses without one too."""
    names = ("one", "two")

    def refuses(heard: Heard) -> Reply:
        return error(f"language is not supported, says {names[heard.number]}")

    async with serving(refuses) as fleet:
        answer = await fleet.ask(SHORT, language="de")
        assert (answer.status_code, len(fleet.uploads)) == (400, 2)
        assert "says two" in answer.json()["error"]["message"]
        assert await fleet.capabilities() == {}


async def test_a_limit_below_what_pieces_have_is_no_limit() -> None:
    """A proxy refuses what it takes for too much; a piece of the same size passes."""

    def moody(heard: Heard) -> Reply:
        return (413, {"error": "too large"}) if heard.number == 0 else words(heard)

    async with serving(moody) as fleet:
        answer = await fleet.ask(SHORT)
        assert words_of("json", answer.text) == SENTENCE.split() * 4
        assert await fleet.capabilities() == {}


@pytest.mark.parametrize("audio", [SHORT, speech(20)], ids=["short", "long"])
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_times_of_words_are_refused_in_plain_words_and_at_once(
    audio: bytes, stream: str
) -> None:
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    async with serving(without_verbose_json) as fleet:
        for _ in range(2):
            answer = await fleet.ask(audio, **asked, stream=stream)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == "timestamp_granularities[]"
            assert "no word timestamps" in answer.json()["error"]["message"]
            asked_first = len(fleet.uploads)
        assert len(fleet.uploads) == asked_first
        assert await fleet.capabilities() == {"verbose_json": False}


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt"])
async def test_a_format_without_a_place_for_words_times_does_not_need_them(
    response_format: str,
) -> None:
    more = {"response_format": response_format, "timestamp_granularities[]": "word"}
    async with serving(without_verbose_json) as fleet:
        for audio, bursts in ((SHORT, 4), (speech(20), 20)):
            answer = await fleet.ask(audio, **more)
            assert answer.status_code == 200, answer.text
            assert words_of(response_format, answer.text) == SENTENCE.split() * bursts


@pytest.mark.parametrize("response_format", FORMATS)
async def test_a_container_that_an_engine_cannot_read_is_decoded_also_for_vllms_events(
    response_format: str, m4a: bytes
) -> None:
    async with serving(without_mp4) as fleet:
        answer = await fleet.ask(m4a, "a.m4a", response_format=response_format)
        assert words_of(response_format, answer.text) == SENTENCE.split() * 2
        events = await fleet.router.upload(
            field("model", MODEL),
            field("stream", "true"),
            file(m4a, "a.m4a"),
            x_stream_format="vllm",
        )
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.text.count("quick") == 2
        assert (await fleet.capabilities())["unreadable_containers"] == ["mp4"]


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("response_format", ["json", "srt"])
async def test_audio_longer_than_an_engine_takes_is_taken_apart(
    response_format: str, stream: str
) -> None:
    async with serving(within(60, 25 * 2**20), **WHOLE) as fleet:
        for _ in range(2):
            answer = await fleet.ask(speech(20), response_format=response_format, stream=stream)
            assert answer.status_code == 200, answer.text
            assert words_of(response_format, answer.text) == SENTENCE.split() * 20
        lengths = [round(seconds(upload.audio)) for upload in fleet.uploads]
        assert lengths.count(112) == 1
        assert await fleet.capabilities() == {"max_audio_s": 60.0}
        # What is within the limit goes as it is.
        await fleet.ask(speech(6))
        assert seconds(fleet.uploads[-1].audio) == pytest.approx(6 * PERIOD_S)


async def test_an_hour_that_an_engine_refuses_for_its_length_is_taken_apart(hour: bytes) -> None:
    async with serving(within(600, 64 * 2**20), **WHOLE, model_capabilities=ANY_SIZE) as fleet:
        answer = await fleet.ask(hour)
        assert answer.status_code == 200, answer.text
        assert words_of("json", answer.text) == SENTENCE.split() * HOUR_BURSTS
        assert (await fleet.capabilities())["max_audio_s"] == 600.0


@pytest.mark.parametrize(
    ("refusal", "limit_mb"),
    [
        ((413, {"error": {"message": "Maximum content size limit (2000000) exceeded"}}), 1.907),
        ((400, {"error": {"message": "Maximum file size exceeded (value=2.3)"}}), None),
        ((413, b"HTTP/1.1 413 X\r\nContent-Length: 17\r\n\r\nPayload Too Large"), None),
    ],
)
async def test_a_file_larger_than_an_engine_takes_is_taken_apart(
    refusal: Reply, limit_mb: float | None
) -> None:
    def takes_2_mb(heard: Heard) -> Reply:
        return refusal if len(heard.audio) > 2_000_000 else words(heard)

    audio = speech(14)
    async with serving(takes_2_mb, **WHOLE) as fleet:
        for _ in range(2):
            answer = await fleet.ask(audio)
            assert answer.status_code == 200, answer.text
            assert words_of("json", answer.text) == SENTENCE.split() * 14
        assert [len(upload.audio) for upload in fleet.uploads].count(len(audio)) == 1
        known = (await fleet.capabilities())["max_file_mb"]
        assert known == (limit_mb or round((len(audio) - 1) / 2**20, 3))


async def test_a_refusal_of_size_that_pieces_get_too_is_shown() -> None:
    def takes_nothing(heard: Heard) -> Reply:
        return error(f"Audio exceeds the maximum duration, says answer {heard.number}")

    async with serving(takes_nothing, **WHOLE) as fleet:
        answer = await fleet.ask(speech(10))
        assert answer.status_code == 400
        assert "says answer 0" in answer.json()["error"]["message"]
        assert await fleet.capabilities() == {}


async def test_nothing_is_taken_apart_where_splitting_is_off() -> None:
    async with serving(within(60, 25 * 2**20), vad="level", split="off") as fleet:
        answer = await fleet.ask(speech(20))
        assert answer.status_code == 400
        assert "maximum allowed duration of 60s" in answer.json()["error"]["message"]


# What is stated.


async def test_what_is_stated_is_not_tried() -> None:
    stated = f"{MODEL}:verbose_json=no,language=no,max_audio_s=60,max_file_mb=2,containers=flac"
    async with serving(words, **WHOLE, model_capabilities=stated) as fleet:
        assert await fleet.capabilities() == {
            "verbose_json": False,
            "language": False,
            "max_audio_s": 60.0,
            "max_file_mb": 2.0,
            "containers": ["flac", "wav"],
            "stated": ["containers", "language", "max_audio_s", "max_file_mb", "verbose_json"],
        }
        assert (await fleet.ask(speech(12), language="de")).status_code == 200
        asked = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
        assert (await fleet.ask(SHORT, **asked)).status_code == 400
        assert all(seconds(upload.audio) <= 30 for upload in fleet.uploads)
        assert all("language" not in upload.fields for upload in fleet.uploads)


async def test_what_is_stated_beats_what_an_engine_says() -> None:
    """Somebody put a proxy before it that is to be mended: the router shall not work around it."""
    async with serving(
        without_language, **SETTINGS, model_capabilities=f"{MODEL}:language=yes"
    ) as fleet:
        for _ in range(2):
            assert (await fleet.ask(SHORT, language="de")).status_code == 200
        assert ["language" in upload.fields for upload in fleet.uploads] == [True, False] * 2
        assert (await fleet.capabilities())["language"] is True


async def test_the_engines_file_states_what_an_engine_can_do(tmp_path: Path) -> None:
    async def says(heard: Heard) -> Reply:
        uploads.append(heard)
        return words(heard)

    uploads: list[Heard] = []
    async with parrot(says) as url:
        path = tmp_path / "engines.yaml"
        path.write_text(f"- url: {url}\n  capabilities: {{language: no, max_audio_s: 45.5}}\n")
        settings = {**WHOLE, "service_discovery": "file", "discovery_file": path}
        async with running_router(is_ready=False, **settings) as router:
            fleet = Serving(router, uploads)
            while not (await router.engines()) or not await fleet.capabilities():
                await asyncio.sleep(0.05)
            assert await fleet.capabilities() == {
                "language": False, "max_audio_s": 45.5, "stated": ["language", "max_audio_s"],
            }  # fmt: skip
            while (await fleet.ask(SHORT, language="de")).status_code != 200:
                await asyncio.sleep(0.05)
            assert "language" not in uploads[-1].fields
            # An edit takes effect.
            path.write_text(f"- url: {url}\n")
            while await fleet.capabilities():
                await asyncio.sleep(0.05)
            await fleet.ask(SHORT, language="de")
            assert uploads[-1].fields["language"] == "de"


# A 500 to a WAV.


def detects_no_language(heard: Heard) -> Reply:
    """Answer as vLLM where Whisper names no language: not for the whole, for a part it does."""
    if "language" not in heard.fields and seconds(heard.audio) > 20:
        return error("list index out of range", 500)
    return words(heard)


def finds_no_words(heard: Heard) -> Reply:
    return error("tuple index out of range", 500)


@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize("response_format", FORMATS)
async def test_a_wav_whose_language_an_engine_cannot_name_is_had_in_parts(
    response_format: str, engines: int
) -> None:
    async with serving(*[detects_no_language] * engines) as fleet:
        answer = await fleet.ask(SHORT, response_format=response_format)
        assert answer.status_code == 200, answer.text
        assert words_of(response_format, answer.text) == SENTENCE.split() * 4
        assert await fleet.capabilities() == {}


@pytest.mark.parametrize("answers", [finds_no_words, lambda _: error("out of range", 500)])
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_silence_that_engines_answer_with_500_has_no_words(
    answers: Answers, stream: str
) -> None:
    async with serving(answers, answers) as fleet:
        answer = await fleet.ask(silence(5.0), stream=stream)
        assert answer.status_code == 200, answer.text
        assert words_of("json", answer.text) == []


async def test_an_engine_that_finds_no_words_in_speech_is_asked_again_and_believed() -> None:
    async with serving(finds_no_words) as fleet:
        answer = await fleet.ask(SHORT)
        assert (answer.status_code, answer.json()["text"]) == (200, "")
        assert len(fleet.uploads) > 1
        metrics = await fleet.router.metrics()
    assert metrics[f'vllm_router_empty_transcripts_total{{model="{MODEL}"}}'] == 1


async def test_a_500_that_every_part_gets_too_is_shown() -> None:
    async with serving(lambda _: error("CUDA error", 500)) as fleet:
        answer = await fleet.ask(SHORT)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "CUDA error"


async def test_a_fleet_that_answers_everything_with_500_is_not_asked_twice_as_much() -> None:
    async with serving(lambda _: error("CUDA error", 500)) as fleet:
        for _ in range(60):
            assert (await fleet.ask(silence(1.0), language="de")).status_code in (200, 500)
        for _ in range(5):
            before = len(fleet.uploads)
            assert (await fleet.ask(SHORT)).status_code == 500
        assert len(fleet.uploads) == before + 1
