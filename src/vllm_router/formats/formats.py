"""A transcript in each response format of OpenAI's audio API.

Promises: JSON as the official clients parse it; SRT and VTT that players accept, whatever the words
and times. One table, `FORMATS`, lists which formats engines produce themselves.

Bounds: linear in the transcript.

Refuses to know: HTTP, and how the transcript was produced.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.channel_merge import spoken_by
from vllm_router.formats.json_text import JsonObject, JsonValue, write_object
from vllm_router.formats.subtitles import Cue, CueMaker, SubtitleStyle
from vllm_router.formats.transcript import Segment, Transcript, Word

Task: TypeAlias = Literal["transcribe", "translate"]
Speech: TypeAlias = Sequence[SpeechSpan] | Mapping[int, Sequence[SpeechSpan]]

#: Whisper's own value for audio without words.
DEFAULT_LANGUAGE: Final = "en"
VTT_HEADER: Final = "WEBVTT\n\n"

_JSON: Final = "application/json"
_PLAIN: Final = "text/plain; charset=utf-8"


class ResponseFormat(StrEnum):
    """The values of `response_format`."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"
    DIARIZED_JSON = "diarized_json"


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """Properties of one format.

    Attributes:
        content_type: Of the complete response, not streamed.
        is_native: Whether the engine's own bytes are the response.
        has_times: Whether it contains segment times.
        engine_streams: Whether the engine can stream this format.
    """

    content_type: str
    is_native: bool
    has_times: bool
    engine_streams: bool


FORMATS: Final[Mapping[ResponseFormat, FormatFacts]] = MappingProxyType(
    {
        ResponseFormat.JSON: FormatFacts(_JSON, True, False, True),
        ResponseFormat.TEXT: FormatFacts(_PLAIN, False, False, True),
        ResponseFormat.SRT: FormatFacts(_PLAIN, False, True, False),
        ResponseFormat.VTT: FormatFacts(_PLAIN, False, True, False),
        ResponseFormat.VERBOSE_JSON: FormatFacts(_JSON, False, True, False),
        ResponseFormat.DIARIZED_JSON: FormatFacts(_JSON, False, True, False),
    }
)


def to_json(transcript: Transcript) -> bytes:
    """Return `{"text", "usage"}`; usage only when known."""
    answer: dict[str, JsonValue] = {"text": transcript.text}
    if transcript.usage is not None:
        answer["usage"] = transcript.usage
    return write_object(answer)


def to_text(transcript: Transcript) -> bytes:
    """Return the plain text in UTF-8."""
    return transcript.text.encode("utf-8", "replace")


def to_verbose_json(transcript: Transcript, task: Task = "transcribe") -> bytes:
    """Return text, language, duration, segments with ids from 0, and usage.

    The duration is always a number: the end of the last segment if the audio's is unknown. The
    language is always a code: clients' types do not allow null.
    """
    segments = transcript.segments
    duration_s = transcript.duration_s
    if duration_s is None:
        duration_s = segments[-1].end_s if segments else 0.0
    answer: dict[str, JsonValue] = {
        "task": task,
        "language": transcript.language or DEFAULT_LANGUAGE,
        "duration": float(duration_s),
        "text": transcript.text,
        "segments": [segment_object(segment, at) for at, segment in enumerate(segments)],
    }
    if transcript.words is not None:
        answer["words"] = [_word_object(word) for word in transcript.words]
    if transcript.usage is not None:
        answer["usage"] = transcript.usage
    answer.update(transcript.extra)
    return write_object(answer)


def to_diarized_json(
    transcript: Transcript, task: Task = "transcribe", names: Sequence[str] = ()
) -> bytes:
    """Return OpenAI's diarized transcript: text, duration, and segments with speakers and times.

    Args:
        transcript: With segments; each channel is a speaker.
        task: The requested task.
        names: Speakers' names in the order of channels; see `speaker_label`.
    """
    segments = transcript.segments
    duration_s = transcript.duration_s
    if duration_s is None:
        duration_s = max((segment.end_s for segment in segments), default=0.0)
    answer: dict[str, JsonValue] = {
        "task": task,
        "duration": float(duration_s),
        "text": transcript.text,
        "segments": [diarized_segment(s, at, names) for at, s in enumerate(segments)],
    }
    if transcript.usage is not None:
        answer["usage"] = transcript.usage
    answer.update(transcript.extra)
    return write_object(answer)


def diarized_segment(segment: Segment, segment_id: int, names: Sequence[str] = ()) -> JsonObject:
    """Return one segment as in `diarized_json` and its stream."""
    return {
        "type": "transcript.text.segment",
        "id": diarized_id(segment_id),
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text.strip(),
        "speaker": spoken_by(segment, names),
    }


def diarized_id(segment_id: int) -> str:
    """Return a diarized segment's id, which is a string."""
    return f"seg_{segment_id}"


def segment_object(segment: Segment, segment_id: int) -> JsonObject:
    """Return one segment as in `verbose_json`, its unknown fields last."""
    return {
        "id": segment_id,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text.lstrip(),
        **({} if segment.channel is None else {"channel": segment.channel}),
        **segment.extra,
    }


def to_srt(
    transcript: Transcript,
    style: SubtitleStyle | None = None,
    speech: Speech | None = None,
) -> bytes:
    """Return SubRip subtitles.

    Args:
        transcript: With segments.
        style: Size limits of a cue.
        speech: Speech spans, for cues inside segments (`CueMaker.cues`); by channel if the segments
            have channels.
    """
    return _file(SubtitleWriter(ResponseFormat.SRT, style), transcript, speech)


def to_vtt(
    transcript: Transcript,
    style: SubtitleStyle | None = None,
    speech: Speech | None = None,
) -> bytes:
    """Return WebVTT subtitles; the arguments are those of `to_srt`."""
    return _file(SubtitleWriter(ResponseFormat.VTT, style), transcript, speech)


class SubtitleWriter:
    """Writes the subtitles of one audio, segment by segment.

    The header and everything that `write` returns, joined, are the whole file.
    """

    __slots__ = ("_count", "_format", "_makers", "_style")

    def __init__(
        self,
        kind: Literal[ResponseFormat.SRT, ResponseFormat.VTT],
        style: SubtitleStyle | None = None,
    ) -> None:
        self._format = kind
        self._style = style
        self._makers: dict[int | None, CueMaker] = {}
        self._count = 0

    @property
    def header(self) -> str:
        """The text before the first cue; empty for SRT."""
        return VTT_HEADER if self._format is ResponseFormat.VTT else ""

    def write(self, segment: Segment, speech: Speech | None = None) -> list[str]:
        """Return the next segment's cues, each with its number and the blank line after it."""
        return [self.written(cue) for cue in self.cues(segment, speech)]

    def cues(self, segment: Segment, speech: Speech | None = None) -> list[Cue]:
        """Return the next segment's cues, to be `written` in order of time.

        Cues of one channel do not overlap. Those of two channels do if two people speak at once.
        """
        maker = self._makers.get(segment.channel)
        if maker is None:
            maker = self._makers[segment.channel] = CueMaker(self._style)
        if isinstance(speech, Mapping):
            speech = speech.get(segment.channel or 0)
        return maker.cues(segment, speech)

    def written(self, cue: Cue) -> str:
        """Return a cue with the next number and the blank line after it."""
        self._count += 1
        if self._format is ResponseFormat.SRT:
            return _srt_cue(self._count, cue)
        return _vtt_cue(self._count, cue)


def _file(writer: SubtitleWriter, transcript: Transcript, speech: Speech | None) -> bytes:
    cues = [cue for segment in transcript.segments for cue in writer.cues(segment, speech)]
    # A cue of another channel may begin inside a segment of several cues.
    cues.sort(key=_start)
    return (writer.header + "".join(map(writer.written, cues))).encode()


def _start(cue: Cue) -> int:
    return cue.start_ms


def _srt_cue(number: int, cue: Cue) -> str:
    times = f"{_clock_time(cue.start_ms, ',')} --> {_clock_time(cue.end_ms, ',')}"
    lines = _srt_escaped("\n".join(cue.lines))
    return f"{number}\n{times}\n{lines}\n\n"


def _vtt_cue(number: int, cue: Cue) -> str:
    times = f"{_clock_time(cue.start_ms, '.')} --> {_clock_time(cue.end_ms, '.')}"
    lines = _vtt_escaped("\n".join(cue.lines))
    return f"{number}\n{times}\n{lines}\n\n"


def _clock_time(time_ms: int, point: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


# SRT has no escapes: players show `&amp;` literally. Characters that players would interpret are
# written slightly differently instead, as Whisper does with the arrow.
_ARROW = re.compile("-{2,}>")
# Players hide tags or apply their style, and differ in what they accept as one.
_TAG_OPENS = re.compile("<(?=[^>]*>|[/!?a-zA-Z])")
# Players hide text in braces, and read these three as a line break or a non-breaking space.
_BRACES = str.maketrans("{}", "()")
_BACKSLASH = re.compile(r"\\(?=[Nnh])")


def _srt_escaped(text: str) -> str:
    text = _ARROW.sub("->", text).translate(_BRACES)
    return _BACKSLASH.sub("/", _TAG_OPENS.sub("‹", text))


def _vtt_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _word_object(word: Word) -> JsonObject:
    return {"word": word.text.lstrip(), "start": word.start_s, "end": word.end_s, **word.extra}
