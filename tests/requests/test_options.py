from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.calls import wav

from vllm_router.audio.channels import Channels
from vllm_router.audio.length import LengthHint
from vllm_router.errors import UnsupportedValue
from vllm_router.formats.formats import ResponseFormat
from vllm_router.observability.request_record import Task
from vllm_router.requests.options import (
    ResponseOptions,
    StreamFormat,
    most_channels,
    must_choose,
    read_response_options,
    told_channels,
)
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.spool.multipart import Form, FormPart
from vllm_router.spool.upload import Spool


def request(*fields: tuple[str, str]) -> TranscriptionRequest:
    parts = [FormPart(name, None, None, 0, 0, value.encode()) for name, value in fields]
    file = FormPart("file", "a.wav", None, 0, 10, None)
    form = Form((*parts, file), 0, b"b")
    return TranscriptionRequest(Task.TRANSCRIBE, "m", "m", form, file, LengthHint(1.0), None, "wav")


def options(*fields: tuple[str, str], **headers: Any) -> ResponseOptions:
    return read_response_options(
        request(*fields),
        StreamFormat.OPENAI,
        headers.get("stream_format"),
        headers.get("priority"),
        headers.get("default_channels", Channels.MIX),
    )


def test_by_default_it_is_json_at_once() -> None:
    assert options() == ResponseOptions(
        ResponseFormat.JSON, False, StreamFormat.OPENAI, False, False, None, False
    )


@pytest.mark.parametrize("kind", ResponseFormat)
def test_every_format_may_be_asked_for(kind: ResponseFormat) -> None:
    assert options(("response_format", f" {kind.value} "), ("channels", "each")).format is kind


def test_a_format_that_is_not_ours_is_left_to_the_engine() -> None:
    assert options(("response_format", "morse")).format is None


def test_who_speaks_is_ours_to_tell_by_channel_alone() -> None:
    diarized = ("response_format", "diarized_json")
    assert (options(diarized).format, options(diarized).is_diarized) == (None, True)
    for channel in ("left", "right"):
        with pytest.raises(UnsupportedValue) as refused:
            options(diarized, ("channels", channel))
        assert refused.value.param == "channels"
        assert "channels=each" in refused.value.message
    each = options(diarized, ("channels", "each"))
    assert (each.format, each.is_diarized) == (ResponseFormat.DIARIZED_JSON, False)
    assert each.needs_times


def test_channels_are_the_requests_or_else_the_routers() -> None:
    assert options().channels is Channels.MIX
    assert options(default_channels=Channels.EACH).channels is Channels.EACH
    assert options(("channels", " Left "), default_channels=Channels.EACH).channels is Channels.LEFT
    assert options(("channels", ""), default_channels=Channels.EACH).channels is Channels.EACH
    with pytest.raises(UnsupportedValue) as caught:
        options(("channels", "both"))
    assert caught.value.param == "channels"


def test_speakers_names_are_in_the_order_of_channels() -> None:
    name = "known_speaker_names[]"
    each = ("channels", "each"), ("response_format", "diarized_json")
    assert options(*each, (name, "Agent"), (name, " Zoë ")).names == ("Agent", "Zoë")
    assert options(*each, ("known_speaker_names", "Agent")).names == ("Agent",)
    assert options(*each).names == ()


@pytest.mark.parametrize(
    ("channels", "format", "held", "chosen", "most"),
    [
        ("mix", "json", 2, False, 1),
        ("each", "json", 1, False, 1),
        ("each", "json", 2, True, 2),
        ("each", "json", 64, True, 8),
        ("each", "diarized_json", 1, True, 1),
        ("each", "json", None, True, 2),
        ("left", "json", 1, False, 1),
        ("right", "json", 2, True, 1),
        ("right", "json", None, True, 1),
    ],
)
def test_what_is_decoded_for_its_channels(
    channels: str, format: str, held: int | None, chosen: bool, most: int
) -> None:
    asked = options(("channels", channels), ("response_format", format))
    data = b"no wav" if held is None else wav(np.zeros((800, held), np.int16))
    known = request()
    known.file = FormPart("file", "a.wav", None, 0, len(data), None)
    upload = Spool(None, 1 << 20).upload(len(data))
    try:
        list(upload.append(data))
        assert told_channels(known, upload) == held
        assert must_choose(known, asked, upload) is chosen
        assert most_channels(known, asked.channels, upload) == most
    finally:
        upload.close()


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ([], False),
        ([("response_format", "text")], False),
        ([("response_format", "srt")], True),
        ([("response_format", "vtt")], True),
        ([("response_format", "verbose_json")], True),
        ([("timestamp_granularities[]", "word")], True),
        ([("timestamp_granularities[]", "segment")], False),
        ([("timestamp_granularities", "segment"), ("stream", "true")], True),
    ],
)
def test_times_are_needed_where_they_show(fields: list[tuple[str, str]], needs: bool) -> None:
    assert options(*fields).needs_times is needs


@pytest.mark.parametrize("word", ["true", "True", "1", "yes", "on", "t", "y"])
def test_a_stream_is_asked_for_in_any_way_that_engines_understand(word: str) -> None:
    assert options(("stream", word)).is_stream


@pytest.mark.parametrize("word", ["false", "0", "", "no", "maybe"])
def test_anything_else_is_no_stream(word: str) -> None:
    assert not options(("stream", word)).is_stream


def test_granularities_are_a_set() -> None:
    both = options(("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment"))
    assert both.wants_words
    assert both.wants_segments
    with pytest.raises(UnsupportedValue) as refused:
        options(("timestamp_granularities[]", "letter"))
    assert refused.value.param == "timestamp_granularities[]"


def test_the_header_wins_over_the_default() -> None:
    assert options(stream_format=b" VLLM ").stream_format is StreamFormat.VLLM
    chosen = read_response_options(request(), StreamFormat.VLLM, b"openai", None)
    assert chosen.stream_format is StreamFormat.OPENAI


@pytest.mark.parametrize(
    ("word", "is_batch"), [(b"batch", True), (b" Batch ", True), (b"normal", False)]
)
def test_priority_is_batch_or_not(word: bytes, is_batch: bool) -> None:
    assert options(priority=word).is_batch is is_batch


@given(st.binary(max_size=20))
def test_any_header_is_understood_or_refused_by_name(value: bytes) -> None:
    for name in ("stream_format", "priority"):
        try:
            options(**{name: value})
        except UnsupportedValue as refused:
            assert refused.param in ("X-Stream-Format", "X-Priority")  # noqa: PT017


def test_a_language_is_taken_as_given() -> None:
    assert options(("language", " de ")).language == "de"
    assert options(("language", "")).language is None
