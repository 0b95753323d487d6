"""The speech model through CTranslate2: the words of every recording."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.local.recordings import SPEECH_MODEL, samples, word_errors, words

from vllm_router.local.sound import RATE_HZ, decode
from vllm_router.local.whisper import MAX_TOKENS, ModelError, Request, Whisper, find_model


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
        plain = model.hear(encoded, length_s, Request("en", "transcribe", False))
        timed = model.hear(encoded, length_s, Request("en", "transcribe", True))
        plain_errors += word_errors(plain.text, sample.text)
        timed_errors += word_errors(timed.text, sample.text)
        total += len(words(sample.text))
        assert plain.segments == ()
        assert plain.token_count > 0
        assert len(timed.segments) == len(sample.segments)
        for segment, (start_s, end_s, text) in zip(timed.segments, sample.segments, strict=True):
            assert words(segment.text) == words(text)
            # The first segment always starts at 0.00, which the prompt says.
            assert segment.start_s == 0.0 or abs(segment.start_s - start_s) < 0.35
            assert abs(segment.end_s - end_s) < 0.6
            assert -1.0 < segment.avg_logprob <= 0.0
    assert plain_errors <= 0.01 * total
    assert timed_errors <= 0.01 * total


@pytest.mark.parametrize("prompt", ["The router.", "The router. " * 300])
def test_a_prompt_of_any_length_and_a_temperature_are_taken(model: Whisper, prompt: str) -> None:
    sample = samples()[0]
    encoded = model.encode(decode(sample.path.read_bytes()))
    request = Request("en", "transcribe", False, prompt=prompt, temperature=0.1)
    assert model.hear(encoded, sample.duration_s, request).token_count < MAX_TOKENS


def test_times_never_run_backwards_or_past_the_end(model: Whisper) -> None:
    noise = np.random.default_rng(1).standard_normal(3 * RATE_HZ).astype(np.float32)
    heard = model.hear(model.encode(noise / 4), 3.0, Request("en", "transcribe", True))
    times = [t for segment in heard.segments for t in (segment.start_s, segment.end_s)]
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
