"""Models through CTranslate2: the small one of the clone, and OpenAI's on recordings of people."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.local.recordings import SPEECH_MODEL, samples, word_errors, words
from tests.speech import people
from tests.speech.weights import model_folder

from vllm_router.local.audio import RATE_HZ, decode
from vllm_router.local.whisper import MAX_TOKENS, ModelError, Options, Whisper, find_model


@pytest.fixture(scope="module")
def model() -> Whisper:
    return Whisper(find_model(str(SPEECH_MODEL / "ct2")))


def test_the_words_and_times_of_the_recordings_are_right(model: Whisper) -> None:
    plain_errors = timed_errors = total = 0
    for sample in samples():
        audio = decode(sample.path.read_bytes())
        encoded = model.encode(audio)
        length_s = len(audio) / RATE_HZ
        assert model.detect_language(encoded) == "en"
        plain = model.transcribe(encoded, 0.0, length_s, Options("transcribe", "en", False))
        timed = model.transcribe(encoded, 0.0, length_s, Options("transcribe", "en", True))
        plain_errors += word_errors(plain.text, sample.text)
        timed_errors += word_errors(timed.text, sample.text)
        total += len(words(sample.text))
        assert plain.segments == ()
        assert plain.token_count > 0
        assert len(timed.segments) == len(sample.segments)
        for segment, (start_s, end_s, text) in zip(timed.segments, sample.segments, strict=True):
            assert words(segment.text) == words(text)
            # The model was trained to begin every first segment at 0.00.
            assert segment.start_s == 0.0 or abs(segment.start_s - start_s) < 0.35
            assert abs(segment.end_s - end_s) < 0.6
            assert -1.0 < segment.avg_logprob <= 0.0
    assert plain_errors <= 0.01 * total
    assert timed_errors <= 0.01 * total


@pytest.fixture(scope="module")
def base() -> Whisper:
    return Whisper(model_folder("base"), threads=2)


@pytest.fixture(scope="module")
def tiny_en() -> Whisper:
    return Whisper(model_folder("tiny.en"), threads=2)


def test_a_multilingual_model_tells_languages(base: Whisper) -> None:
    assert {"en", "fr", "ru"} < base.languages
    for name, language in (("jfk.flac", "en"), ("french.aiff", "fr"), ("ru.wav", "ru")):
        assert base.detect_language(base.encode(people.clip(name).samples)) == language


def test_a_multilingual_model_writes_each_language_and_translates(base: Whisper) -> None:
    clip = people.clip("ru.wav")
    encoded = base.encode(clip.samples)
    length_s = len(clip.samples) / RATE_HZ
    transcript = base.transcribe(
        encoded, 0.0, length_s, Options("transcribe", "ru", False)
    ).text.lower()
    assert "на его месте" in transcript
    english = base.transcribe(
        encoded, 0.0, length_s, Options("translate", "ru", False)
    ).text.lower()
    assert english.isascii()
    assert len(english.split()) > 3


def test_timestamps_follow_whispers_rules(base: Whisper) -> None:
    clip = people.clip("jfk.flac")
    audio = np.concatenate([clip.samples, np.zeros(RATE_HZ, np.float32), clip.samples])
    length_s = len(audio) / RATE_HZ
    transcript = base.transcribe(
        base.encode(audio), 0.0, length_s, Options("transcribe", "en", True)
    )
    assert word_errors(transcript.text, f"{clip.text} {clip.text}") <= 1
    assert len(transcript.segments) > 1
    times = [at for segment in transcript.segments for at in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    # The second time he speaks is 12 s after the first, and some segment says so.
    assert any(abs(s.start_s - 12.0 - clip.stretches[0][0]) < 1.0 for s in transcript.segments)


def test_an_english_only_model_is_told_neither_language_nor_task(tiny_en: Whisper) -> None:
    assert tiny_en.languages == {"en"}
    clip = people.clip("jfk.flac")
    encoded = tiny_en.encode(clip.samples)
    assert tiny_en.detect_language(encoded) == "en"
    for has_timestamps in (False, True):
        options = Options("transcribe", "en", has_timestamps)
        transcript = tiny_en.transcribe(encoded, 0.0, len(clip.samples) / RATE_HZ, options)
        assert word_errors(transcript.text, clip.text) == 0


@pytest.mark.parametrize("prompt", ["The router.", "The router. " * 300])
def test_a_prompt_of_any_length_and_a_temperature_are_taken(model: Whisper, prompt: str) -> None:
    sample = samples()[0]
    encoded = model.encode(decode(sample.path.read_bytes()))
    options = Options("transcribe", "en", False, prompt=prompt, temperature=0.1)
    assert model.transcribe(encoded, 0.0, sample.duration_s, options).token_count < MAX_TOKENS


def test_times_never_run_backwards_or_past_the_end(model: Whisper) -> None:
    noise = np.random.default_rng(1).standard_normal(3 * RATE_HZ).astype(np.float32)
    transcript = model.transcribe(
        model.encode(noise / 4), 0.0, 3.0, Options("transcribe", "en", True)
    )
    times = [t for segment in transcript.segments for t in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert all(0 <= t <= 3.0 for t in times)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model.bin and no tokenizer.json"):
        find_model(str(tmp_path))
    for name in ("model.bin", "tokenizer.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="no usable model"):
        Whisper(find_model(str(tmp_path)))


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder, and no name"):
        find_model(name)


def test_a_hub_name_without_the_hubs_client_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="pip install huggingface_hub"):
        find_model("someone/some-model")


def test_a_hub_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        @staticmethod
        def snapshot_download(name: str, allow_patterns: list[str]) -> str:
            if name == "good/model":
                return str(SPEECH_MODEL / "ct2")
            raise OSError("no network")

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="cannot be fetched from the hub: no network"):
        find_model("someone/some-model")
    assert find_model("good/model") == SPEECH_MODEL / "ct2"
