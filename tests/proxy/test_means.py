"""How answers are written, by format and rules."""

import pytest

from vllm_router.errors import UnsupportedValue
from vllm_router.proxy.facts import RequestFacts, Task
from vllm_router.proxy.means import known_length, require_words
from vllm_router.proxy.wish import StreamFormat, Wish
from vllm_router.wire.formats import ResponseFormat
from vllm_router.wire.length import LengthHint, MeasuredSeconds
from vllm_router.wire.multipart import Form, Part
from vllm_router.wire.transcript import Transcript, Word

FILE = Part("file", "a.wav", None, 0, 10, None)


def facts(seconds: float, *, is_measured: bool) -> RequestFacts:
    form = Form((FILE,), 10, b"b")
    measured_s = MeasuredSeconds(seconds) if is_measured else None
    return RequestFacts(
        Task.TRANSCRIBE, "m", "m", form, FILE, LengthHint(seconds), measured_s, "wav"
    )


def wish(*, wants_words: bool) -> Wish:
    return Wish(
        ResponseFormat.VERBOSE_JSON, False, StreamFormat.OPENAI, wants_words, False, None, False
    )


def test_a_hint_is_not_told_as_true() -> None:
    assert known_length(facts(1.23456, is_measured=True)) == 1.235
    assert known_length(facts(1.23456, is_measured=False)) is None


def test_times_of_words_are_refused_only_where_the_engine_gives_none() -> None:
    without, having = Transcript("so"), Transcript("so", words=(Word(0.0, 1.0, "so"),))
    require_words(wish(wants_words=False), without)
    require_words(wish(wants_words=True), having)
    with pytest.raises(UnsupportedValue, match="segment"):
        require_words(wish(wants_words=True), without)
