import json
from itertools import pairwise
from typing import Any

import pysubs2
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.channels import Channels
from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.formats import ResponseFormat, to_srt
from vllm_router.formats.subtitles import SubtitleStyle
from vllm_router.formats.transcript import Segment, Transcript, Word
from vllm_router.requests.event_rendering import EventRendering
from vllm_router.requests.options import ResponseOptions, StreamFormat
from vllm_router.requests.pieces import PieceResult
from vllm_router.requests.turns import TurnEvents, Turns

# Of each piece: its channel, the pause before it, and how long its segments are.
PIECES = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 9), st.lists(st.integers(1, 9), min_size=1, max_size=3)
    ),
    max_size=20,
)


def heard_of(pieces: list[tuple[int, int, list[int]]]) -> list[PieceResult]:
    """Return the pieces as the fleet has heard them, each word of all different."""
    clock = [0.0, 0.0, 0.0]
    found: list[PieceResult] = []
    for number, (channel, pause, lengths) in enumerate(pieces):
        begin = at = clock[channel] + pause
        segments = []
        for length in lengths:
            words = [f"w{number}.{len(segments)}.{i}" for i in range(3 * length)]
            segments.append(Segment(at, at + length, " " + " ".join(words)))
            at += length
        clock[channel] = at
        text = "".join(segment.text for segment in segments).strip()
        speech = (SpeechSpan(begin, at),)
        part = Transcript(text, segments=tuple(segments))
        found.append(PieceResult(begin, at, part, speech, None, channel))
    frontier_s = 1e9
    for place in range(len(found) - 1, -1, -1):
        own = found[place]
        found[place] = PieceResult(
            own.start_s, own.end_s, own.transcript, own.speech, None, own.channel, frontier_s
        )
        frontier_s = min(frontier_s, own.start_s)
    return found


def whole(found: list[PieceResult]) -> tuple[Transcript, Turns]:
    turns = Turns()
    for heard in found:
        assert heard.transcript is not None
        assert heard.channel is not None
        turns.add(heard.transcript, heard.channel, heard.speech)
    return turns.joined(500.0), turns


def streamed(found: list[PieceResult], kind: ResponseFormat) -> list[dict[str, Any]]:
    options = ResponseOptions(
        kind, True, StreamFormat.OPENAI, False, False, None, False, Channels.EACH
    )
    rendering = EventRendering(
        options, SubtitleStyle(), request_id="id", model="m", created=7, task="transcribe"
    )
    events = TurnEvents(rendering)
    data = b"".join(events.add(heard.transcript, heard) for heard in found)
    data += events.rest() + rendering.end(None)
    return [json.loads(part[6:]) for part in data.decode().split("\n\n") if part]


@given(PIECES)
def test_no_word_is_lost_or_doubled_and_turns_are_in_order(
    pieces: list[tuple[int, int, list[int]]],
) -> None:
    found = heard_of(pieces)
    transcript, _ = whole(found)
    said = [heard.transcript.text for heard in found if heard.transcript is not None]
    assert sorted(transcript.text.split()) == sorted(" ".join(said).split())
    assert " ".join(s.text.strip() for s in transcript.segments) == transcript.text
    assert all(a.start_s <= b.start_s for a, b in pairwise(transcript.segments))
    for channel in range(3):
        own = [s.text.strip() for s in transcript.segments if s.channel == channel]
        spoken = [
            h.transcript.text for h in found if h.channel == channel and h.transcript is not None
        ]
        assert " ".join(own) == " ".join(spoken)


@given(PIECES)
def test_a_stream_says_what_the_whole_says(pieces: list[tuple[int, int, list[int]]]) -> None:
    found = heard_of(pieces)
    transcript, turns = whole(found)
    for kind in (ResponseFormat.JSON, ResponseFormat.DIARIZED_JSON):
        *before, done = streamed(found, kind)
        assert done["text"] == transcript.text
        segments = [e for e in before if e["type"] == "transcript.text.segment"]
        if kind is ResponseFormat.DIARIZED_JSON:
            assert [(s["start"], s["text"], s["speaker"]) for s in segments] == [
                (s.start_s, s.text.strip(), "ABC"[s.channel or 0]) for s in transcript.segments
            ]
    assert (
        streamed(found, ResponseFormat.SRT)[-1]["text"]
        == to_srt(transcript, SubtitleStyle(), turns.speech).decode()
    )


@given(PIECES)
def test_cues_are_in_order_and_those_of_a_channel_do_not_overlap(
    pieces: list[tuple[int, int, list[int]]],
) -> None:
    found = heard_of(pieces)
    transcript, turns = whole(found)
    cues = pysubs2.SSAFile.from_string(
        to_srt(transcript, SubtitleStyle(), turns.speech).decode(), format_="srt"
    )
    assert all(a.start <= b.start for a, b in pairwise(cues))
    by_channel: dict[int, list[Any]] = {}
    numbers = {n: h.channel or 0 for n, h in enumerate(found)}
    for cue in cues:
        number = int(cue.plaintext.split(".")[0][1:])
        by_channel.setdefault(numbers[number], []).append(cue)
    for own in by_channel.values():
        assert all(a.end <= b.start for a, b in pairwise(own))


def test_words_are_merged_by_time_as_well() -> None:
    turns = Turns()
    for channel, start_s in ((0, 1.0), (1, 2.0), (0, 3.0)):
        text = f"w{start_s}"
        part = Transcript(
            text,
            "en",
            segments=(Segment(start_s, start_s + 0.5, text),),
            words=(Word(start_s, start_s + 0.5, text),),
        )
        turns.add(part, channel, ())
    assert len(turns) == 3
    transcript = turns.joined(4.2)
    assert transcript.words is not None
    assert [(w.text, w.extra["channel"]) for w in transcript.words] == [
        ("w1.0", 0), ("w2.0", 1), ("w3.0", 0),
    ]  # fmt: skip
    assert transcript.text == "w1.0 w2.0 w3.0"
    assert transcript.language == "en"
    assert transcript.duration_s == 4.2
    assert transcript.usage == {"type": "duration", "seconds": 5}
    assert repr(turns) == "<Turns 3 pieces>"


def test_a_turn_waits_for_what_may_come_before_it_and_no_longer() -> None:
    options = ResponseOptions(
        ResponseFormat.JSON, True, StreamFormat.OPENAI, False, False, None, False, Channels.EACH
    )
    rendering = EventRendering(
        options, SubtitleStyle(), request_id="id", model="m", created=7, task="transcribe"
    )
    events = TurnEvents(rendering)

    def piece(channel: int, start_s: float, text: str, frontier_s: float) -> PieceResult:
        part = Transcript(text, segments=(Segment(start_s, start_s + 1, text),))
        return PieceResult(start_s, start_s + 1, part, (), None, channel, frontier_s)

    first = piece(0, 5.0, "second", 2.0)
    assert events.add(first.transcript, first) == b""
    # What nobody could hear has its place too.
    assert events.add(None, PieceResult(2.0, 3.0, None, (), "broken", 1, 3.0)) == b""
    second = piece(1, 3.0, "first", 5.5)
    assert b"first" in events.add(second.transcript, second)
    assert rendering.text == "first second"
    assert events.rest() == b""
    assert "TimeMerge" in repr(events)
