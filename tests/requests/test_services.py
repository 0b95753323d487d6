"""How answers are written, by format and rules."""

import pytest

from vllm_router.audio.length import LengthHint, MeasuredSeconds
from vllm_router.errors import UnsupportedValue
from vllm_router.formats.formats import ResponseFormat
from vllm_router.formats.transcript import Transcript, Word
from vllm_router.observability.request_record import Task
from vllm_router.requests.options import ResponseOptions, StreamFormat
from vllm_router.requests.services import known_length, require_words
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.spool.multipart import Form, FormPart

FILE = FormPart("file", "a.wav", None, 0, 10, None)


def request(seconds: float, *, is_measured: bool) -> TranscriptionRequest:
    form = Form((FILE,), 10, b"b")
    measured_s = MeasuredSeconds(seconds) if is_measured else None
    return TranscriptionRequest(
        Task.TRANSCRIBE, "m", "m", form, FILE, LengthHint(seconds), measured_s, "wav"
    )


def options(*, wants_words: bool) -> ResponseOptions:
    return ResponseOptions(
        ResponseFormat.VERBOSE_JSON, False, StreamFormat.OPENAI, wants_words, False, None, False
    )


def test_a_hint_is_not_told_as_true() -> None:
    assert known_length(request(1.23456, is_measured=True)) == 1.235
    assert known_length(request(1.23456, is_measured=False)) is None


def test_times_of_words_are_refused_only_where_the_engine_gives_none() -> None:
    without, having = Transcript("so"), Transcript("so", words=(Word(0.0, 1.0, "so"),))
    require_words(options(wants_words=False), without)
    require_words(options(wants_words=True), having)
    with pytest.raises(UnsupportedValue, match="segment"):
        require_words(options(wants_words=True), without)
