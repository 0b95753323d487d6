"""Pieces whose words are implausible for their speech, and what is asked again for them."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from tests.end_to_end.test_long import talk
from tests.requests.parrots import Heard, Reply, parrot
from tests.routers import MODEL, RunningRouter, field, file, running_router

from vllm_router.audio.wav import silence

#: Four pieces of three sentences each; noise in bursts, which the level detector takes for speech.
TALK = talk(92.4)
SETTINGS = {"vad": "level", "verify": True, "split_longer_than_s": 30}
SENTENCE = "The quick brown fox jumps over the lazy dog beside the river while all of them watch. "
FRENCH = "Le chat dort au soleil pendant que les enfants jouent dans le jardin avec leurs amis. "


def seconds(heard: Heard) -> float:
    return (len(heard.audio) - 44) / 32_000


def said(length_s: float, sentence: str = SENTENCE) -> dict[str, str]:
    """Return what an ordinary speaker says in so many seconds."""
    count = max(1, round(length_s * 15 / len(sentence)))
    return {"text": (sentence * count).strip()}


async def answered(
    says: Callable[[Heard], Reply], response_format: str = "json", **fields: str
) -> tuple[dict[str, object], list[Heard], dict[str, float], dict[str, str]]:
    """Return the router's answer, what the engine got, the metrics and the answer's headers."""
    uploads: list[Heard] = []

    async def notes(heard: Heard) -> Reply:
        uploads.append(heard)
        return says(heard)

    async with parrot(notes) as url, running_router(url, **SETTINGS) as router:
        answer = await ask(router, response_format, **fields)
        metrics = await router.metrics()
    return answer.json(), uploads, metrics, dict(answer.headers)


async def ask(router: RunningRouter, response_format: str, **fields: str):  # type: ignore[no-untyped-def]
    plain = [field(name, value) for name, value in fields.items()]
    answer = await router.upload(
        field("model", MODEL), field("response_format", response_format), *plain, file(TALK)
    )
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("response_format", ["json", "verbose_json"])
async def test_pieces_are_asked_for_as_json_whatever_the_client_wants(response_format: str) -> None:
    _, uploads, _, headers = await answered(lambda h: (200, said(seconds(h))), response_format)
    assert {upload.fields["response_format"] for upload in uploads} == {"json"}
    assert len(uploads) == 4
    assert headers["x-speech-coverage"] == "1.000"


async def test_every_format_has_the_same_words_and_times_that_begin_with_speech() -> None:
    json, *_ = await answered(lambda h: (200, said(seconds(h))))
    verbose, *_ = await answered(lambda h: (200, said(seconds(h))), "verbose_json")
    segments = verbose["segments"]
    assert isinstance(segments, list)
    assert json["text"] == verbose["text"]
    assert " ".join(s["text"].strip() for s in segments) == json["text"]
    assert verbose["language"] == "en"
    # A sentence of the noise begins every 7.7 s.
    first = [
        s["start"] for s in segments if any(abs(s["start"] - 7.7 * k) < 0.3 for k in range(13))
    ]
    assert len(first) >= 10


async def test_a_piece_with_too_few_words_is_asked_for_again_in_two_parts() -> None:
    def loses_most_of_long_pieces(heard: Heard) -> Reply:
        is_first = heard.number == 0
        return 200, {"text": "The quick brown fox."} if is_first else said(seconds(heard))

    body, uploads, metrics, headers = await answered(loses_most_of_long_pieces)
    assert len(uploads) == 6
    assert len(str(body["text"])) > 12 * 80
    assert headers["x-speech-coverage"] == "1.000"
    reheard = f'vllm_router_reheard_seconds_total{{model="{MODEL}",reason="thin"}}'
    assert 15 < metrics[reheard] <= 30


async def test_the_first_answer_stays_where_a_second_has_fewer_words() -> None:
    def is_worse_in_halves(heard: Heard) -> Reply:
        return 200, {"text": "Only this was heard of it." if seconds(heard) > 18 else "Of it."}

    body, uploads, _, headers = await answered(is_worse_in_halves)
    assert str(body["text"]).count("Only this was heard of it.") == 4
    assert float(headers["x-speech-coverage"]) == 0.0
    # It stops asking when that does not help.
    assert len(uploads) <= 4 + 4 + 4


async def test_a_loop_is_asked_for_again() -> None:
    def loops(heard: Heard) -> Reply:
        if heard.number == 0:
            return 200, {"text": "and so it goes " * 60}
        return 200, said(seconds(heard))

    body, *_ = await answered(loops)
    assert "and so it goes" not in str(body["text"])


async def test_a_stock_phrase_over_what_is_not_speech_is_dropped_and_counted() -> None:
    body, uploads, metrics, _ = await answered(lambda _: (200, {"text": "Thank you."}))
    assert body["text"] == ""
    assert metrics['vllm_router_dropped_words_total{reason="unspoken"}'] >= 8
    assert len(uploads) == 4


async def test_vllms_way_to_say_that_there_are_no_words_is_no_failure() -> None:
    def has_none(heard: Heard) -> Reply:
        if heard.number == 0:
            return 500, {"error": {"message": "tuple index out of range", "code": 500}}
        return 200, said(seconds(heard))

    body, uploads, *_ = await answered(has_none)
    assert len(uploads) == 6
    assert len(str(body["text"])) > 12 * 80


async def test_a_short_piece_in_another_language_is_asked_for_in_the_audios() -> None:
    def mistakes_one(heard: Heard) -> Reply:
        if heard.number == 1 and "language" not in heard.fields:
            return 200, {**said(seconds(heard)), "language": "nn"}
        return 200, {**said(seconds(heard)), "language": heard.fields.get("language", "es")}

    body, uploads, *_ = await answered(mistakes_one, "verbose_json")
    assert body["language"] == "es"
    assert [u.fields.get("language") for u in uploads].count("es") == 1


async def test_a_second_language_that_is_really_spoken_stays() -> None:
    half = len(TALK) // 2

    def speaks_two(heard: Heard) -> Reply:
        is_late = TALK.find(heard.audio[44 + 64_000 : 44 + 64_200]) > half
        sentence = FRENCH if is_late else SENTENCE
        return 200, said(seconds(heard), sentence)

    body, uploads, *_ = await answered(speaks_two)
    assert len(uploads) == 4
    assert "chat" in str(body["text"])
    assert "fox" in str(body["text"])


async def test_a_language_given_is_sent_with_every_piece_and_never_doubted() -> None:
    _, uploads, *_ = await answered(lambda h: (200, said(seconds(h))), language="fr")
    assert {upload.fields["language"] for upload in uploads} == {"fr"}
    assert len(uploads) == 4


async def test_words_that_only_the_engine_hears_have_their_pieces_times() -> None:
    async def hears_a_whisper(heard: Heard) -> Reply:
        return 200, {"text": f"Whispered {heard.number}."}

    fields = field("model", MODEL), field("response_format", "verbose_json")
    settings = {"vad": "off", "split_longer_than_s": 30, "engine_max_windows": 1}
    async with parrot(hears_a_whisper) as url, running_router(url, **settings) as router:
        answer = await router.upload(*fields, file(silence(75.0)))
    segments = answer.json()["segments"]
    assert len(segments) == 3
    assert segments[0]["start"] == 0.0
    assert segments[-1]["end"] == 75.0
    for before, after in pairwise(segments):
        assert before["start"] < before["end"] == after["start"]


async def test_a_piece_whose_language_an_engine_cannot_name_is_had_otherwise() -> None:
    """vLLM's answer where no token of a language is likely is 500, each time that it is asked."""
    unnamed: list[bytes] = []

    def cannot_name_the_first(heard: Heard) -> Reply:
        unnamed[:] = unnamed or [heard.audio]
        if heard.audio == unnamed[0] and "language" not in heard.fields:
            return 500, {"error": {"message": "Internal Server Error", "code": 500}}
        return 200, said(seconds(heard))

    body, *_ = await answered(cannot_name_the_first)
    assert len(str(body["text"])) > 12 * 80


async def test_a_piece_that_no_engine_can_transcribe_fails_the_upload() -> None:
    async def fails_at_one(heard: Heard) -> Reply:
        is_first = TALK.find(heard.audio[44 + 64_000 : 44 + 64_200]) < len(TALK) // 4
        return (500, {"error": {}}) if is_first else (200, said(seconds(heard)))

    async with parrot(fails_at_one) as url, running_router(url, **SETTINGS) as router:
        answer = await router.upload(field("model", MODEL), file(TALK))
    assert answer.status_code == 502
    assert "were not transcribed" in answer.json()["error"]["message"]
