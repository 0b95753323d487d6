"""Calls with one speaker per channel: each transcribed separately, then merged by time."""

import json
import subprocess
from collections.abc import AsyncIterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pysubs2
import pytest
from openai.types.audio import TranscriptionDiarized
from tests.calls import Turn, call, listens, numbers_in, sentence, wav
from tests.requests.parrots import Heard, Reply, parrot
from tests.routers import MODEL, TRANSLATIONS, RunningRouter, field, file, running_router

#: They take turns, interrupt each other, and fall silent.
TURNS = [
    Turn(0, 0.5, 1), Turn(1, 3.0, 2), Turn(0, 5.5, 3), Turn(1, 6.0, 4, 1.0), Turn(0, 9.0, 5, 2.5),
]  # fmt: skip
SHORT = wav(call(TURNS, 12.0))
LONG_TURNS = [
    *TURNS,
    *(Turn(int(at % 3 == 0), 14.0 + 3.1 * at, 6 + at, 2.2) for at in range(40)),
    Turn(1, 139.0, 50),
]
LONG = wav(call(LONG_TURNS, 150.0))
CALLS = {"short": (SHORT, TURNS), "long": (LONG, LONG_TURNS)}


class Ears:
    """An engine's memory of what it was sent."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    async def __call__(self, heard: Heard) -> Reply:
        self.heard.append(heard)
        return await listens(heard)

    @property
    def numbers(self) -> list[int]:
        """The sentences of all pieces."""
        return sorted(number for heard in self.heard for number in numbers_in(heard.audio))


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def router(ears: Ears) -> AsyncIterator[RunningRouter]:
    async with parrot(ears) as a, parrot(ears) as b, running_router(a, b) as router:
        yield router


def asking(audio: bytes, **fields: str) -> list[bytes]:
    plain = {"model": MODEL, "channels": "each", **fields}
    return [*(field(name, value) for name, value in plain.items()), file(audio)]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def in_order(turns: list[Turn]) -> list[Turn]:
    return sorted(turns, key=lambda turn: (turn.start_s, turn.channel))


def text_of(turns: list[Turn]) -> str:
    return " ".join(sentence(turn.number) for turn in in_order(turns))


def is_near(shown: list[tuple[float, float, str]], turns: list[Turn]) -> bool:
    """Say whether each sentence is shown when it is said, in the order of time."""
    assert [text for *_, text in shown] == [sentence(turn.number) for turn in in_order(turns)]
    return all(
        abs(start_s - turn.start_s) < 0.3 and abs(end_s - turn.start_s - turn.length_s) < 0.4
        for (start_s, end_s, _), turn in zip(shown, in_order(turns), strict=True)
    )


@pytest.mark.parametrize(
    ("channels", "kind"),
    [
        *product(["mix", "left", "each"], ["json", "text", "srt", "verbose_json"]),
        # With one channel left there is nobody to tell apart.
        *product(["mix", "each"], ["diarized_json"]),
    ],
)
async def test_an_engine_that_forbids_fields_it_does_not_know_gets_none_of_ours(
    kind: str, channels: str
) -> None:
    async def strict(heard: Heard) -> Reply:
        extra = heard.fields.keys() - {"model", "response_format"}
        if extra:
            message = f"{extra}: Extra inputs are not permitted"
            return 422, {"error": {"message": message, "type": "x", "param": None, "code": 422}}
        return await listens(heard)

    mono = wav(call([Turn(0, 0.5, 1)], 4.0, channels=1))
    async with parrot(strict) as url, running_router(url) as router:
        answer = await router.upload(*asking(mono, channels=channels, response_format=kind))
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("length", CALLS)
async def test_every_format_has_the_turns_in_the_order_of_time(
    router: RunningRouter, ears: Ears, length: str
) -> None:
    audio, turns = CALLS[length]
    answer = await router.upload(*asking(audio))
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == text_of(turns)
    assert answer.json()["usage"]["seconds"] == (12 if length == "short" else 150)
    # Each sentence was sent once, and no piece holds both voices.
    assert ears.numbers == sorted(turn.number for turn in turns)
    channels = {turn.number: turn.channel for turn in turns}
    for heard in ears.heard:
        assert len({channels[number] for number in numbers_in(heard.audio)}) == 1
        assert not {"channels", "response_format"} & heard.fields.keys() - {"response_format"}
    text = await router.upload(*asking(audio, response_format="text"))
    assert text.text == text_of(turns)
    verbose = (await router.upload(*asking(audio, response_format="verbose_json"))).json()
    segments = verbose["segments"]
    assert verbose["text"] == text_of(turns)
    assert is_near([(s["start"], s["end"], s["text"]) for s in segments], turns)
    assert [s["id"] for s in segments] == list(range(len(segments)))
    assert [s["channel"] for s in segments] == [turn.channel for turn in in_order(turns)]
    for kind in ("srt", "vtt"):
        shown = await router.upload(*asking(audio, response_format=kind))
        cues = pysubs2.SSAFile.from_string(shown.text, format_=kind)
        assert is_near([(c.start / 1000, c.end / 1000, c.plaintext) for c in cues], turns)


@pytest.mark.parametrize("length", CALLS)
@pytest.mark.parametrize("kind", ["json", "text", "srt", "vtt", "verbose_json", "diarized_json"])
async def test_streams_say_the_same(router: RunningRouter, length: str, kind: str) -> None:
    audio, turns = CALLS[length]
    answer = await router.upload(*asking(audio, response_format=kind, stream="true"))
    *before, done = events(answer.text)
    assert done["type"] == "transcript.text.done"
    deltas = "".join(e["delta"] for e in before if e["type"] == "transcript.text.delta")
    assert deltas == done["text"]
    if kind in ("srt", "vtt"):
        cues = pysubs2.SSAFile.from_string(done["text"], format_=kind)
        assert is_near([(c.start / 1000, c.end / 1000, c.plaintext) for c in cues], turns)
    else:
        assert done["text"] == text_of(turns)
    segments = [e for e in before if e["type"] == "transcript.text.segment"]
    if kind in ("verbose_json", "diarized_json"):
        assert is_near([(s["start"], s["end"], s["text"]) for s in segments], turns)
    if kind == "diarized_json":
        assert [s["speaker"] for s in segments] == ["AB"[t.channel] for t in in_order(turns)]
        told = [e for e in before if e["type"] == "transcript.text.delta"]
        assert [d["segment_id"] for d in told] == [s["id"] for s in segments]


async def test_verification_is_of_each_channel(ears: Ears) -> None:
    """With the speech of both together every answer would be too thin."""
    async with parrot(ears) as url, running_router(url, verify=True) as router:
        answer = await router.upload(*asking(LONG))
        assert answer.json()["text"] == text_of(LONG_TURNS)
        assert answer.headers["x-speech-coverage"] == "1.000"
        assert ears.numbers == sorted(turn.number for turn in LONG_TURNS)


@pytest.mark.parametrize("audio", [SHORT, LONG], ids=CALLS)
async def test_one_side_alone(router: RunningRouter, ears: Ears, audio: bytes) -> None:
    turns = TURNS if audio is SHORT else LONG_TURNS
    for channel, name in enumerate(("left", "RIGHT ")):
        own = [turn for turn in turns if turn.channel == channel]
        answer = await router.upload(*asking(audio, channels=name))
        assert answer.json()["text"] == text_of(own)
        assert answer.json()["usage"]["seconds"] == (12 if audio is SHORT else 150)
    assert ears.numbers == sorted(turn.number for turn in turns)


async def test_a_mono_wav_goes_to_an_engine_as_it_came(router: RunningRouter, ears: Ears) -> None:
    mono = wav(call([Turn(0, 0.5, 1)], 3.0, 1))
    for name in ("each", "left", "right", "mix", ""):
        answer = await router.upload(*asking(mono, channels=name))
        assert answer.json()["text"] == sentence(1)
    assert [heard.audio for heard in ears.heard] == [mono] * 5


async def test_a_mono_file_of_another_kind_is_as_mix(router: RunningRouter, tmp_path: Path) -> None:
    audio = encoded(tmp_path, call([Turn(0, 0.5, 1)], 3.0, 1), "flac")
    answer = await router.upload(*asking(audio, response_format="verbose_json"))
    assert [s["text"] for s in answer.json()["segments"]] == [sentence(1)]
    assert "channel" not in answer.json()["segments"][0]


def encoded(folder: Path, sound: Any, extension: str, *options: str) -> bytes:
    (folder / "in.wav").write_bytes(wav(sound))
    path = folder / f"out.{extension}"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(folder / "in.wav"), *options]
    subprocess.run([*command, str(path)], check=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("extension", "options"),
    [
        ("mp3", ["-b:a", "64k", "-ar", "44100"]),
        ("m4a", ["-b:a", "96k"]),
        ("ogg", ["-c:a", "libvorbis"]),
        ("webm", ["-c:a", "libopus", "-b:a", "64k"]),
        ("flac", []),
        ("wav", ["-c:a", "pcm_mulaw", "-ar", "8000"]),
        ("wav", ["-c:a", "pcm_s24le", "-ar", "48000"]),
        ("wav", ["-c:a", "pcm_f32le"]),
    ],
)
async def test_every_container_has_channels(
    router: RunningRouter, tmp_path: Path, extension: str, options: list[str]
) -> None:
    audio = encoded(tmp_path, call(TURNS, 12.0), extension, *options)
    answer = await router.upload(*asking(audio, response_format="diarized_json"))
    assert answer.status_code == 200, answer.text
    assert is_near([(s["start"], s["end"], s["text"]) for s in answer.json()["segments"]], TURNS)


async def test_more_than_two_channels(router: RunningRouter, tmp_path: Path) -> None:
    turns = [Turn(at % 5, 0.5 + 2.5 * at, at + 1) for at in range(10)]
    # Of eight, the decoder's frames have to be taken apart in another way.
    for audio in (wav(call(turns, 27.0, 6)), encoded(tmp_path, call(turns, 27.0, 8), "flac")):
        answer = await router.upload(*asking(audio, response_format="diarized_json"))
        assert [s["speaker"] for s in answer.json()["segments"]] == list("ABCDE") * 2
        assert answer.json()["text"] == text_of(turns)
    refused = await router.upload(*asking(wav(call(turns, 27.0, 9))))
    assert refused.status_code == 400
    assert "9 channels" in refused.json()["error"]["message"]
    mixed = await router.upload(*asking(wav(call(turns, 27.0, 9)), channels="left"))
    assert mixed.json()["text"] == text_of([turn for turn in turns if turn.channel == 0])


async def test_nobody_pays_for_silence_or_for_the_same_twice(ears: Ears, tmp_path: Path) -> None:
    key_file = tmp_path / "keys"
    key_file.write_text("them:secret\n")
    said = [Turn(0, 1.0 + 2.5 * at, at) for at in range(5)]
    one = call(said, 20.0)
    both = np.repeat(one[:, :1], 2, axis=1)
    hushed = one.copy()
    rng = np.random.default_rng(0)
    hushed[:, 1] = rng.integers(-3, 4, len(one))
    for skips in (True, False):
        for number, sound in enumerate((one, one[:, ::-1], both, hushed, call(TURNS, 20.0))):
            settings = {"api_key_file": key_file, "skip_silence": skips}
            async with parrot(ears) as url, running_router(url, **settings) as router:
                router.client.headers["authorization"] = "Bearer secret"
                ears.heard.clear()
                audio = wav(np.ascontiguousarray(sound))
                answer = await router.upload(*asking(audio, response_format="diarized_json"))
                assert answer.status_code == 200, answer.text
                channels = 2 if number == 4 else 1
                assert len(ears.heard) == channels
                turns = TURNS if number == 4 else said
                assert answer.json()["text"] == text_of(turns)
                assert answer.json()["usage"] == {"type": "duration", "seconds": 20}
                speakers = {s["speaker"] for s in answer.json()["segments"]}
                assert speakers == ({"A", "B"} if number == 4 else {"B" if number == 1 else "A"})
                metrics = await router.metrics()
                charged = metrics['vllm_router_key_audio_seconds_total{key="them"}']
                assert charged == pytest.approx(20.0 * channels)
                counted = metrics[f'vllm_router_audio_seconds_total{{model="{MODEL}"}}']
                assert counted == pytest.approx(20.0 * channels)


async def test_what_leaks_into_the_other_channel_is_said_once(
    router: RunningRouter, ears: Ears
) -> None:
    sound = call(TURNS, 12.0).astype(float)
    leaking = sound + sound[:, ::-1] * [0.05, -0.1]
    answer = await router.upload(
        *asking(wav(leaking.astype(np.int16)), response_format="diarized_json")
    )
    # Where both speak at once the weaker voice is not told from the leak; here nobody shouts.
    assert [s["text"] for s in answer.json()["segments"]][:2] == [sentence(1), sentence(2)]
    assert ears.numbers.count(1) == ears.numbers.count(2) == 1


@pytest.mark.parametrize("value", ["both", "0", "left,right"])
async def test_a_wrong_value_is_refused_by_name(router: RunningRouter, value: str) -> None:
    answer = await router.upload(*asking(SHORT, channels=value))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "channels"
    assert "'each'" in answer.json()["error"]["message"]


async def test_the_flag_is_the_default_and_a_request_wins(ears: Ears) -> None:
    async with parrot(ears) as url, running_router(url, channels="each") as router:
        parts = [field("model", MODEL), file(SHORT)]
        assert (await router.upload(*parts)).json()["text"] == text_of(TURNS)
        assert len(ears.heard) == 2
        assert ears.heard[0].audio != SHORT
        translated = await router.upload(*parts, path=TRANSLATIONS)
        assert translated.json()["text"] == text_of(TURNS)


async def test_mix_is_what_it_was(ears: Ears) -> None:
    seen: list[bytes] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard.audio)
        return 200, {"text": "so"}

    async with parrot(says) as url, running_router(url, channels="each") as router:
        assert (await router.upload(*asking(SHORT, channels="mix"))).json() == {"text": "so"}
    assert seen == [SHORT]


async def test_who_speaks_is_told_by_openais_shape(router: RunningRouter) -> None:
    async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client:
        answer = await client.audio.transcriptions.create(
            model=MODEL,
            file=("call.wav", LONG),
            response_format="diarized_json",
            chunking_strategy="auto",
            extra_body={"channels": "each"},
        )
        assert isinstance(answer, TranscriptionDiarized)
        told = TranscriptionDiarized.model_validate(answer.model_dump(), strict=True)
        assert told.task == "transcribe"
        assert told.duration == 150.0
        assert told.text == text_of(LONG_TURNS)
        assert told.usage is not None
        assert told.usage.type == "duration"
        assert len({s.id for s in told.segments}) == len(told.segments)
        assert [s.speaker for s in told.segments] == [
            "AB"[turn.channel] for turn in in_order(LONG_TURNS)
        ]
        named = await client.audio.transcriptions.create(
            model=MODEL,
            file=("call.wav", SHORT),
            response_format="diarized_json",
            known_speaker_names=["Agent"],
            extra_body={"channels": "each"},
        )
        assert {s.speaker for s in named.segments} == {"Agent", "B"}


async def test_who_speaks_is_told_as_a_stream(router: RunningRouter) -> None:
    async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client:
        stream = await client.audio.transcriptions.create(
            model=MODEL,
            file=("call.wav", LONG),
            response_format="diarized_json",
            stream=True,
            extra_body={"channels": "each"},
        )
        told = [event async for event in stream]
    segments = [event for event in told if event.type == "transcript.text.segment"]
    assert is_near([(s.start, s.end, s.text) for s in segments], LONG_TURNS)
    assert {s.speaker for s in segments} == {"A", "B"}
    assert all(a.start <= b.start for a, b in pairwise(segments))
    assert told[-1].type == "transcript.text.done"
    assert told[-1].text == text_of(LONG_TURNS)


async def test_one_channel_is_one_speaker(router: RunningRouter, tmp_path: Path) -> None:
    sound = call([Turn(0, 0.5, 1), Turn(0, 3.5, 2)], 6.0, 1)
    for audio in (wav(sound), encoded(tmp_path, sound, "flac")):
        for stream in ("false", "true"):
            answer = await router.upload(
                *asking(audio, response_format="diarized_json", stream=stream)
            )
            found = answer.json()["segments"] if stream == "false" else events(answer.text)
            speakers = [each["speaker"] for each in found if "speaker" in each]
            assert speakers == ["A", "A"]


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_without_channels_only_an_engine_can_tell_who_speaks(stream: str) -> None:
    async def refuses(heard: Heard) -> Reply:
        said = "Input should be 'json', 'text', 'srt', 'verbose_json' or 'vtt'"
        error = {"message": said, "type": "Bad Request", "param": "response_format", "code": 400}
        return 400, {"error": error}

    async def knows(heard: Heard) -> Reply:
        assert heard.fields["response_format"] == "diarized_json"
        return 200, {"text": " so", "segments": [{"speaker": "A", "text": " so"}]}

    async def deaf(heard: Heard) -> Reply:
        return 400, {"error": {"message": "Invalid or corrupted audio data.", "code": 400}}

    fields = {"channels": "mix", "response_format": "diarized_json", "stream": stream}
    async with parrot(refuses) as url, running_router(url) as router:
        answer = await router.upload(*asking(LONG, **fields))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "response_format"
        assert "channels=each" in answer.json()["error"]["message"]
    async with parrot(knows) as url, running_router(url) as router:
        answer = await router.upload(*asking(LONG, **fields))
        assert answer.json() == {"text": " so", "segments": [{"speaker": "A", "text": " so"}]}
    async with parrot(deaf) as url, running_router(url) as router:
        answer = await router.upload(*asking(LONG, **fields))
        assert "corrupted" in answer.json()["error"]["message"]


async def test_times_of_words_are_merged_too() -> None:
    async def says(heard: Heard) -> Reply:
        numbers = numbers_in(heard.audio)
        words = [
            {"word": f" {number}", "start": 0.5 + 2 * at, "end": 1.0 + 2 * at}
            for at, number in enumerate(numbers)
        ]
        text = " ".join(map(str, numbers))
        segment = {"id": 0, "start": 0.4, "end": 1.0 + 2 * len(numbers), "text": f" {text}"}
        return 200, {"text": text, "words": words, "segments": [segment]}

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(
            *asking(SHORT, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
        )
    words = answer.json()["words"]
    assert sorted(w["word"] for w in words) == ["1", "2", "3", "4", "5"]
    assert [w["start"] for w in words] == sorted(w["start"] for w in words)
    assert {(w["word"], w["channel"]) for w in words} == {(str(t.number), t.channel) for t in TURNS}
    assert sorted(answer.json()["text"].split()) == ["1", "2", "3", "4", "5"]
