"""Short recordings of people in every format: single ones, and a few joined with pauses."""

import asyncio

import httpx
import pytest
from tests.real.ask import TIMEOUT_S, stream, transcribe
from tests.real.engines import MODEL
from tests.speech import people
from tests.speech.cues import read_subtitles
from tests.speech.recordings import Recording
from tests.speech.words import normal_words, pooled, word_errors

# Of all words, and of the words of one recording: room noise before the first word makes a single
# engine lose up to half of a recording.
ALLOWED, ALLOWED_EACH = 0.015, 0.06
SHORT = 6
FORMATS = ("json", "text", "verbose_json", "srt", "vtt", "stream")


def heard(url: str, spoken: Recording, way: str, **fields: str) -> str:
    """Return the words of an answer in a format, or of a stream."""
    if way == "stream":
        answer = stream(url, spoken, **fields)
        assert answer.deltas == answer.final
        return answer.final
    response = transcribe(url, spoken, response_format=way, **fields)
    if way == "text":
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        return response.text
    if way in ("srt", "vtt"):
        return " ".join(cue.text for cue in read_subtitles(response.text, way))
    return str(response.json()["text"])


@pytest.mark.parametrize("name", ["jfk.flac", "2412-153948-0000.flac", "arctic_a0024.wav"])
def test_a_single_window_has_the_same_words_in_every_format(router_url: str, name: str) -> None:
    spoken = people.spoken(name)
    answers = {way: normal_words(heard(router_url, spoken, way)) for way in FORMATS}
    assert len(set(map(tuple, answers.values()))) == 1, answers
    assert word_errors(spoken.text, " ".join(answers["json"])).rate <= ALLOWED_EACH


@pytest.mark.parametrize(("name", "language"), [("french.aiff", "fr"), ("ru.wav", "ru")])
def test_a_language_that_was_not_given_is_found(router_url: str, name: str, language: str) -> None:
    spoken = people.spoken(name)
    answer = transcribe(router_url, spoken, response_format="verbose_json").json()
    assert answer["language"] == language
    assert float(answer["duration"]) == pytest.approx(spoken.duration_s, abs=0.1)
    # A small model has trouble with single words of these.
    assert word_errors(spoken.text, answer["text"]).rate <= 0.5


def test_short_recordings_with_silence_and_noise_keep_their_words(
    router_url: str, pytestconfig: pytest.Config, figures: dict[str, object]
) -> None:
    seed = 100 * pytestconfig.getoption("--seed")
    errors = []
    for number in range(SHORT):
        spoken = people.joined_clips(seed + number, 1 + number % 3, ("silence", "noise"))
        plain, timed = (heard(router_url, spoken, way) for way in ("json", "verbose_json"))
        assert word_errors(plain, timed).wrong == 0
        errors.append(word_errors(spoken.text, plain))
    figures["short recordings"] = f"{pooled(errors)}, each: " + ", ".join(
        f"{each.rate:.1%}" for each in errors
    )
    assert max(each.rate for each in errors) <= ALLOWED_EACH
    assert pooled(errors).rate <= ALLOWED


def test_two_languages_in_one_recording_are_both_kept(
    router_url: str, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--seed")
    english = people.joined_clips(seed, 4)
    russian = people.joined_clips(seed, 8, languages=("ru",))
    spoken = people.in_a_row([english, russian])
    answer = transcribe(router_url, spoken, response_format="verbose_json").json()
    words = normal_words(answer["text"])
    errors = word_errors(english.text, " ".join(word for word in words if word.isascii()))
    # One piece may hold both languages, and then Whisper translates the end of it: words that are
    # added to the English ones are not counted, nor is each Russian sentence asked for.
    assert errors.wrong - errors.invented <= ALLOWED_EACH * errors.said
    assert " ".join(words).count("на его месте") >= 3


async def test_a_client_that_leaves_costs_another_of_the_same_request_id_no_words(
    router_url: str,
) -> None:
    # vLLM ends all its work of one X-Request-Id with the first that is cancelled, and answers 200
    # with the words it had.
    spoken = people.spoken("2412-153948-0000.flac")
    whole = normal_words(heard(router_url, spoken, "json"))

    async def sent(client: httpx.AsyncClient) -> list[str]:
        response = await client.post(
            f"{router_url}/v1/audio/transcriptions",
            data={"model": MODEL, "response_format": "json"},
            files={"file": (spoken.name, spoken.audio)},
            headers={"X-Request-Id": "mine"},
        )
        assert response.status_code == 200, response.text
        return normal_words(response.json()["text"])

    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        staying = asyncio.gather(*(sent(client) for _ in range(6)))
        while not staying.done():
            leaving = [asyncio.create_task(sent(client)) for _ in range(4)]
            for each in leaving:
                await asyncio.sleep(0.7)
                each.cancel()
        answers = await staying
    assert answers == [whole] * 6
