import json
from typing import Any

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.formats import ResponseFormat
from vllm_router.formats.subtitles import SubtitleStyle
from vllm_router.formats.transcript import Segment, Transcript
from vllm_router.requests.event_rendering import EventRendering
from vllm_router.requests.options import ResponseOptions, StreamFormat

WORDS = st.lists(
    st.sampled_from(["so", "it", "goes,", "well.", "Ja", "日本"]), min_size=1, max_size=8
)


def rendering(
    kind: ResponseFormat, is_vllm: bool = False, segments: bool = False
) -> EventRendering:
    stream_format = StreamFormat.VLLM if is_vllm else StreamFormat.OPENAI
    options = ResponseOptions(kind, True, stream_format, False, segments, None, False)
    return EventRendering(
        options, SubtitleStyle(), request_id="id", model="m", created=7, task="transcribe"
    )


def piece(start_s: float, *texts: str) -> Transcript:
    segments = tuple(
        Segment(start_s + 2 * at, start_s + 2 * at + 1.5, f" {text}")
        for at, text in enumerate(texts)
    )
    return Transcript(" ".join(texts), "en", 2.0 * len(texts), segments)


def events(data: bytes) -> list[dict[str, Any]]:
    return [
        json.loads(part[6:]) for part in data.decode().split("\n\n") if part.startswith("data: {")
    ]


@given(st.lists(WORDS, max_size=5), st.sampled_from(list(ResponseFormat)))
def test_the_deltas_joined_are_the_text_of_the_last_event(
    pieces: list[list[str]], kind: ResponseFormat
) -> None:
    one = rendering(kind)
    data = b"".join(one.add(piece(20.0 * at, *words)) for at, words in enumerate(pieces))
    *before, done = events(data + one.end(None))
    assert done["type"] == "transcript.text.done"
    assert done["text"] == one.text
    deltas = [event["delta"] for event in before if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == done["text"]


def test_pieces_are_joined_as_words_are() -> None:
    one = rendering(ResponseFormat.JSON)
    one.add(piece(0, "one"))
    one.add(piece(20, "two"))
    assert one.text == "one two"


def test_segments_have_running_numbers_over_all_pieces() -> None:
    one = rendering(ResponseFormat.VERBOSE_JSON)
    data = one.add(piece(0, "a", "b")) + one.add(piece(20, "c"))
    segments = [e for e in events(data) if e["type"] == "transcript.text.segment"]
    assert [(s["id"], s["text"], s["start"]) for s in segments] == [
        ("0", "a", 0.0),
        ("1", "b", 2.0),
        ("2", "c", 20.0),
    ]


def test_segments_may_be_had_beside_plain_text() -> None:
    data = rendering(ResponseFormat.JSON, segments=True).add(piece(0, "a"))
    assert [event["type"] for event in events(data)] == [
        "transcript.text.delta",
        "transcript.text.segment",
    ]


@pytest.mark.parametrize("kind", [ResponseFormat.SRT, ResponseFormat.VTT])
def test_the_text_of_streamed_subtitles_is_a_file_of_them(kind: ResponseFormat) -> None:
    one = rendering(kind)
    one.add(piece(0, "first words", "second words"))
    one.add(piece(20, "third words"))
    one.end(None)
    cues = pysubs2.SSAFile.from_string(one.text, format_=kind.value)
    assert [cue.plaintext for cue in cues] == ["first words", "second words", "third words"]
    assert cues[2].start == 20_000


def test_subtitles_of_nothing_are_an_empty_file_of_their_kind() -> None:
    for kind, text in ((ResponseFormat.SRT, ""), (ResponseFormat.VTT, "WEBVTT\n\n")):
        one = rendering(kind)
        one.end(None)
        assert one.text == text


@pytest.mark.parametrize("kind", [ResponseFormat.JSON, ResponseFormat.SRT])
def test_vllms_events_end_with_a_reason_and_done(kind: ResponseFormat) -> None:
    one = rendering(kind, is_vllm=True)
    data = one.add(piece(0, "one")) + one.end(None)
    assert data.endswith(b"data: [DONE]\n\n")
    first, last = events(data)
    assert first["id"] == "transcribe-id"
    assert (first["model"], first["created"]) == ("m", 7)
    assert "one" in first["choices"][0]["delta"]["content"]
    assert last["choices"][0]["finish_reason"] == "stop"


def test_what_is_missing_is_told_at_the_end() -> None:
    usage = {"type": "duration", "seconds": 60}
    [done] = events(rendering(ResponseFormat.JSON).end(usage, [(30.0, 60.0)]))
    assert done["missing"] == [{"start": 30.0, "end": 60.0}]
    assert done["usage"] == usage


@pytest.mark.parametrize("is_vllm", [False, True])
def test_damage_is_told_in_the_last_event(is_vllm: bool) -> None:
    one = rendering(ResponseFormat.JSON, is_vllm)
    assert events(one.end(None, warning="It is cut short."))[-1]["warning"] == "It is cut short."
    assert "warning" not in events(one.end(None))[-1]


def test_a_piece_of_silence_is_no_event() -> None:
    assert rendering(ResponseFormat.JSON).add(Transcript("")) == b""
