from collections.abc import Callable
from pathlib import Path

import pytest
from tests.real.ask import stream, transcribe
from tests.speech.recordings import Recording, samples
from tests.speech.words import WordErrors, pooled, word_errors

Listen = Callable[[str, Recording, str], None]

each_sample = pytest.mark.parametrize(
    "spoken", samples(), ids=[Path(sample.name).stem for sample in samples()]
)


@pytest.fixture(scope="module")
def listen(figures: dict[str, object]) -> Listen:
    """Fail on more than 5 % wrong words; report the errors so far of each way to ask."""
    so_far: dict[str, list[WordErrors]] = {}

    def check(way: str, spoken: Recording, heard: str) -> None:
        errors = word_errors(spoken.text, heard)
        so_far.setdefault(way, []).append(errors)
        figures[f"samples as {way}"] = str(pooled(so_far[way]))
        assert errors.rate <= 0.05

    return check


@each_sample
def test_json_has_the_words(router_url: str, spoken: Recording, listen: Listen) -> None:
    answer = transcribe(router_url, spoken, response_format="json").json()
    listen("json", spoken, answer["text"])
    assert answer["usage"]["type"] == "duration"


@each_sample
def test_text_is_the_words_alone(router_url: str, spoken: Recording, listen: Listen) -> None:
    answer = transcribe(router_url, spoken, response_format="text")
    listen("text", spoken, answer.text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "{" not in answer.text


@each_sample
def test_verbose_json_has_the_words_and_when(
    router_url: str, spoken: Recording, listen: Listen
) -> None:
    answer = transcribe(router_url, spoken, response_format="verbose_json").json()
    listen("verbose_json", spoken, answer["text"])
    assert float(answer["duration"]) == pytest.approx(spoken.duration_s, abs=0.1)
    assert answer["language"] == "en"
    for segment, sentence in zip(answer["segments"], spoken.sentences, strict=True):
        assert segment["end"] == pytest.approx(sentence.end_s, abs=0.35)


@each_sample
def test_a_stream_has_the_words(router_url: str, spoken: Recording, listen: Listen) -> None:
    answer = stream(router_url, spoken)
    listen("stream", spoken, answer.final)
    assert answer.deltas == answer.final
