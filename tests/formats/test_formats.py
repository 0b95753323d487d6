import io
import json
import re
from itertools import pairwise

import av
import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.audio import TranscriptionDiarized, TranscriptionVerbose

from vllm_router.formats.formats import (
    FORMATS,
    ResponseFormat,
    SubtitleWriter,
    segment_object,
    to_diarized_json,
    to_json,
    to_srt,
    to_text,
    to_verbose_json,
    to_vtt,
)
from vllm_router.formats.subtitles import SubtitleStyle
from vllm_router.formats.transcript import Segment, Transcript, Word

HEARD = Transcript(
    text="Hello there. Grüße!",
    language="en",
    duration_s=3.25,
    segments=(
        Segment(0.0, 1.5, " Hello there.", {"seek": 0, "tokens": [1], "no_speech_prob": None}),
        Segment(2.0, 3.1, " Grüße!", {"seek": 0}),
    ),
    usage={"type": "duration", "seconds": 4},
)


def said(*segments):
    return Transcript("", segments=tuple(Segment(*segment) for segment in segments))


def read_by_ffmpeg(subtitles, kind):
    """Return (start_ms, text) as FFmpeg's own demuxer and decoder see them."""
    out = []
    with av.open(
        io.BytesIO(subtitles), format="webvtt" if kind is ResponseFormat.VTT else "srt"
    ) as file:
        stream = file.streams.subtitles[0]
        for packet in file.demux(stream):
            start_ms = None if packet.pts is None else round(packet.pts * packet.time_base * 1000)
            for subtitle in packet.decode():
                ass = subtitle.ass.decode()
                # ReadOrder, Layer, Style, Name, three margins, Effect, Text
                text = ass.split(",", 8)[8].replace("\\{{}", "{").replace("\u2060", "")
                out.append((start_ms, text.replace("\\N", "\n")))
    return out


def test_json_holds_text_and_usage():
    assert json.loads(to_json(HEARD)) == {
        "text": "Hello there. Grüße!",
        "usage": {"type": "duration", "seconds": 4},
    }
    assert to_json(Transcript("x")) == b'{"text":"x"}'


def test_text_is_bare():
    assert to_text(HEARD) == "Hello there. Grüße!".encode()
    assert to_text(Transcript("\ud800")) == b"?"


def test_verbose_json_has_what_the_engine_leaves_out():
    answer = json.loads(to_verbose_json(HEARD))
    assert answer == {
        "task": "transcribe",
        "language": "en",
        "duration": 3.25,
        "text": "Hello there. Grüße!",
        "segments": [
            {
                "id": 0,
                "start": 0.0,
                "end": 1.5,
                "text": "Hello there.",
                "seek": 0,
                "tokens": [1],
                "no_speech_prob": None,
            },
            {"id": 1, "start": 2.0, "end": 3.1, "text": "Grüße!", "seek": 0},
        ],
        "usage": {"type": "duration", "seconds": 4},
    }
    assert answer["segments"][1] == segment_object(HEARD.segments[1], 1)
    parsed = TranscriptionVerbose.model_validate({**answer, "segments": None})
    assert parsed.usage is not None


def test_verbose_json_of_little_knowledge():
    answer = json.loads(
        to_verbose_json(
            Transcript("a", words=(Word(0.0, 1.0, " a", {"p": 1}),), extra={"future": 1}),
            "translate",
        )
    )
    assert answer == {
        "task": "translate",
        "language": "en",
        "duration": 0.0,
        "text": "a",
        "segments": [],
        "words": [{"word": "a", "start": 0.0, "end": 1.0, "p": 1}],
        "future": 1,
    }
    assert json.loads(to_verbose_json(said((0, 2, "a"))))["duration"] == 2.0


def test_diarized_json_is_openais():
    turns = Transcript(
        "Hello. Hi.",
        duration_s=4.2,
        segments=(
            Segment(0.5, 1.0, " Hello.", {"seek": 0}, 0),
            Segment(0.8, 2.0, "Hi.", channel=1),
        ),
        usage={"type": "duration", "seconds": 5},
    )
    answer = json.loads(to_diarized_json(turns, names=("Agent",)))
    assert answer == {
        "task": "transcribe",
        "duration": 4.2,
        "text": "Hello. Hi.",
        "segments": [
            {
                "type": "transcript.text.segment",
                "id": "seg_0",
                "start": 0.5,
                "end": 1.0,
                "text": "Hello.",
                "speaker": "Agent",
            },
            {
                "type": "transcript.text.segment",
                "id": "seg_1",
                "start": 0.8,
                "end": 2.0,
                "text": "Hi.",
                "speaker": "B",
            },
        ],
        "usage": {"type": "duration", "seconds": 5},
    }
    TranscriptionDiarized.model_validate(answer, strict=True)
    assert json.loads(to_diarized_json(Transcript("")))["duration"] == 0
    assert [s["channel"] for s in json.loads(to_verbose_json(turns))["segments"]] == [0, 1]


def test_cues_of_two_channels_are_in_order_and_may_overlap():
    long = "one two three four five six seven eight nine ten " * 4
    turns = Transcript(
        "", segments=(Segment(0.0, 12.0, long, channel=0), Segment(5.0, 5.5, "mhm", channel=1))
    )
    cues = list(pysubs2.SSAFile.from_string(to_srt(turns).decode(), format_="srt"))
    starts = [cue.start for cue in cues]
    assert starts == sorted(starts)
    assert [cue.start for cue in cues if cue.plaintext == "mhm"] == [5000]
    assert 0 < starts.index(5000) < len(starts) - 1


def test_srt():
    assert to_srt(HEARD).decode() == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
        "2\n00:00:02,000 --> 00:00:03,100\nGrüße!\n\n"
    )


def test_vtt():
    assert to_vtt(HEARD).decode() == (
        "WEBVTT\n\n"
        "1\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "2\n00:00:02.000 --> 00:00:03.100\nGrüße!\n\n"
    )


def test_nothing_said_is_a_valid_file():
    assert to_srt(Transcript("")) == b""
    assert to_vtt(Transcript("")) == b"WEBVTT\n\n"
    assert to_srt(said((0, 1, " "))) == b""


def test_hours_may_have_more_than_two_digits():
    late = said((360_000.0, 360_001.5, "late"))
    assert b"100:00:00,000 --> 100:00:01,500" in to_srt(late)
    assert b"100:00:00.000 --> 100:00:01.500" in to_vtt(late)
    assert read_by_ffmpeg(to_vtt(late), ResponseFormat.VTT) == [(360_000_000, "late")]


def test_a_cue_written_alone_is_the_same_as_in_the_file():
    writer = SubtitleWriter(ResponseFormat.VTT)
    cues = [cue for segment in HEARD.segments for cue in writer.write(segment)]
    assert (writer.header + "".join(cues)).encode() == to_vtt(HEARD)
    assert SubtitleWriter(ResponseFormat.SRT).header == ""


def test_style_and_speech_reach_the_cues():
    speech = ((0.3, 2.0), (3.0, 5.0))
    segment = said((0.3, 5.0, "One two three four. Five six seven eight."))
    assert to_srt(segment, SubtitleStyle(12, 2), speech).decode() == (
        "1\n00:00:00,300 --> 00:00:02,000\nOne two\nthree four.\n\n"
        "2\n00:00:03,000 --> 00:00:05,000\nFive six\nseven eight.\n\n"
    )


TRICKY = [
    "a & b",
    "a &amp; b",
    "1 < 2",
    "2 > 1",
    "<3 you",
    "5",
    "NOTE this",
    "STYLE",
    "- dash",
    "100%",
    "#hash; comma, too",
    "-1",
]
CHANGED_IN_SRT = {
    "a --> b": "a -> b",
    "x ------> y": "x -> y",
    "<b>bold</b>": "‹b>bold‹/b>",
    "<!-- x -->": "‹!-- x ->",
    "1 < 2 > 1": "1 ‹ 2 > 1",
    "a < b >": "a ‹ b >",
    "{\\an8}up": "(\\an8)up",
    "C:\\new": "C:/new",
}


def test_players_see_the_words_and_no_markup():
    words = [*TRICKY, *CHANGED_IN_SRT]
    heard = said(*((float(at), at + 0.9, text) for at, text in enumerate(words)))
    starts = [at * 1000 for at in range(len(words))]

    srt = to_srt(heard)
    plain = [CHANGED_IN_SRT.get(text, text) for text in words]
    assert read_by_ffmpeg(srt, ResponseFormat.SRT) == list(zip(starts, plain, strict=True))
    read = pysubs2.SSAFile.from_string(srt.decode(), format_="srt")
    assert [(event.start, event.plaintext) for event in read] == list(
        zip(starts, plain, strict=True)
    )
    assert read_by_ffmpeg(to_vtt(heard), ResponseFormat.VTT) == list(
        zip(starts, words, strict=True)
    )
    assert srt.count(b"-->") == to_vtt(heard).count(b"-->") == len(words)


def test_a_tag_that_ends_on_the_next_line_is_none():
    srt = to_srt(said((0, 1, "< " + "x " * 30 + ">")))
    assert b"<" not in srt
    assert read_by_ffmpeg(srt, ResponseFormat.SRT)[0][1].count("x") == 30


CUE = re.compile(
    r"(\d+)\n(\d{2,}):(\d\d):(\d\d)[,.](\d{3}) --> (\d{2,}):(\d\d):(\d\d)[,.](\d{3})\n((?:.+\n)+)\n"
)
SEGMENTS = st.lists(
    st.tuples(
        st.floats(0, 20_000),
        st.floats(0, 20_000),
        st.text(st.characters(codec="utf-8"), max_size=120)
        | st.text("ab <>&-{}\\N./1\n", max_size=120),
    ),
    max_size=8,
)


@given(SEGMENTS, st.sampled_from([ResponseFormat.SRT, ResponseFormat.VTT]))
@settings(max_examples=200)
def test_any_transcript_is_read_by_every_player_with_the_same_times_and_count(segments, kind):
    heard = said(*segments)
    text = (to_srt(heard) if kind is ResponseFormat.SRT else to_vtt(heard)).decode()
    body = text.removeprefix("WEBVTT\n\n")
    cues = CUE.findall(body)
    assert "".join(CUE.sub("", body).split()) == ""
    assert [int(cue[0]) for cue in cues] == list(range(1, len(cues) + 1))
    spans = [
        tuple(((int(h) * 60 + int(m)) * 60 + int(s)) * 1000 + int(ms) for h, m, s, ms in times)
        for times in ((cue[1:5], cue[5:9]) for cue in cues)
    ]
    assert all(start < end for start, end in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))

    seen = read_by_ffmpeg(text.encode(), kind) if cues else []
    assert [start for start, _ in seen] == [start for start, _ in spans]
    read = pysubs2.SSAFile.from_string(text, format_=kind.value) if cues else []
    assert [(event.start, event.end) for event in read] == spans
    if kind is ResponseFormat.SRT:
        shown = ["".join(cue[9].split()) for cue in cues]
        assert ["".join(event.plaintext.split()) for event in read] == shown
        assert ["".join(words.split()) for _, words in seen] == shown


@pytest.mark.parametrize("kind", list(ResponseFormat))
def test_every_format_is_in_the_table(kind):
    request = FORMATS[kind]
    assert request.has_times == (kind not in (ResponseFormat.JSON, ResponseFormat.TEXT))
    assert request.engine_streams != request.has_times
    assert request.content_type.startswith(("application/json", "text/plain; charset=utf-8"))
    assert request.is_native == (kind is ResponseFormat.JSON)
