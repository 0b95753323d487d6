"""What an engine heard: read from its JSON, moved in time, and put together from pieces.

Promises: after reading, segments keep their order and their words, and their times are in order,
inside the audio and never overlap, whatever the engine wrote. Fields that this module does not
know stay with their segment or transcript.

Bounds: none of its own; the caller has bounded the answer's bytes.

Refuses to know: how a transcript is shown (formats.py) and where the audio's pauses are.
"""

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vllm_router.formats.json_text import BadJson, JsonObject, JsonValue, read_object
from vllm_router.formats.usage_seconds import usage_in, whole_seconds

# What Whisper's tokenizer writes between words when an engine decodes its special tokens as well.
_SPECIAL_TOKEN = re.compile(r"<\|(?:[0-9]+\.[0-9]{2}|[a-z]+)\|>")
# Segments begin with a space, and vLLM puts another between them in the text.
_SPACES = re.compile(" {2,}")
_SEGMENT_FIELDS = frozenset({"id", "start", "end", "text"})
_WORD_FIELDS = frozenset({"word", "start", "end"})
_FIELDS = frozenset({"task", "language", "duration", "text", "segments", "words", "usage"})
_MILLISECONDS = 3
_NOTHING: JsonObject = {}


class BadTranscript(ValueError):
    """The engine's answer holds no transcript."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word and its time, from an engine that gives them."""

    start_s: float
    end_s: float
    text: str
    extra: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence or so, and its time in seconds from the start of the audio.

    Attributes:
        start_s: Not before the end of the segment before it.
        end_s: Not before `start_s`.
        text: As the engine wrote it, often with a space in front.
        extra: The engine's other fields, in its order (`seek`, `tokens`, `avg_logprob`, …).
        channel: In which it was said, from 0; None: channels are not told apart. What is said in
            two channels may overlap.
    """

    start_s: float
    end_s: float
    text: str
    extra: JsonObject = field(default_factory=dict)
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """All the words of one audio, or of one piece of it.

    Attributes:
        text: All the words, without space around them.
        language: As the engine names it ("en").
        duration_s: The audio's length.
        segments: In the order of the words; empty when the engine was not asked for them.
        words: None when the engine gives none.
        usage: OpenAI's usage object.
        extra: The engine's other fields.
    """

    text: str
    language: str | None = None
    duration_s: float | None = None
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] | None = None
    usage: JsonObject | None = None
    extra: JsonObject = field(default_factory=dict)

    def shifted(self, offset_s: float) -> "Transcript":
        """Return the transcript as it stands in an audio that it begins `offset_s` into.

        Times are kept to the millisecond. `duration_s` stays the piece's own.
        """
        return self.on_clock(lambda time_s: time_s + offset_s)

    def on_clock(self, clock: Callable[[float], float]) -> "Transcript":
        """Return the transcript with each time, in seconds, as another clock has it."""

        def moved(time_s: float) -> float:
            return round(clock(time_s), _MILLISECONDS)

        return replace(
            self,
            segments=tuple(
                replace(item, start_s=moved(item.start_s), end_s=moved(item.end_s))
                for item in self.segments
            ),
            words=None
            if self.words is None
            else tuple(
                replace(item, start_s=moved(item.start_s), end_s=moved(item.end_s))
                for item in self.words
            ),
        )


def read_transcript(body: bytes, duration_s: float | None = None) -> Transcript:
    """Read an engine's `json` or `verbose_json` answer.

    The duration may be a number or, in older releases, text; usage, where the engine gives none,
    is the duration's; ids and `task` are made anew when the transcript is written. Segments
    without words are left out.

    Args:
        body: The answer.
        duration_s: The audio's length as the router knows it, which goes before the engine's word.

    Raises:
        BadTranscript: no JSON object, or one without a `text`.
    """
    try:
        answer = read_object(body)
    except BadJson as error:
        raise BadTranscript(f"the answer is {error}") from error
    text = answer.get("text")
    if not isinstance(text, str):
        raise BadTranscript("the answer has no text")
    language = answer.get("language")
    length_s = duration_s if duration_s is not None else _seconds(answer.get("duration"))
    words = answer.get("words")
    return Transcript(
        text=_SPACES.sub(" ", _SPECIAL_TOKEN.sub("", text)).strip(),
        language=language if isinstance(language, str) and language else None,
        duration_s=length_s,
        segments=_read_segments(answer.get("segments"), length_s),
        words=_read_words(words, length_s) if isinstance(words, list) else None,
        usage=usage_in(answer) or duration_usage(length_s),
        extra=_others(answer, _FIELDS),
    )


def joined(parts: Iterable[Transcript], duration_s: float | None = None) -> Transcript:
    """Put the pieces of one audio together, each `shifted` to its place, in order.

    Args:
        parts: The pieces.
        duration_s: The whole audio's length; None sums the pieces', where all are known.

    Returns:
        One text; the segments of all, none reaching back into the piece before; the first
        language found; usage as the duration in whole seconds, rounded up.
    """
    pieces = tuple(parts)
    if duration_s is None and pieces:
        lengths = [piece.duration_s for piece in pieces if piece.duration_s is not None]
        duration_s = round(sum(lengths), _MILLISECONDS) if len(lengths) == len(pieces) else None
    words = [piece.words for piece in pieces if piece.words is not None]
    return Transcript(
        text=join_texts(piece.text for piece in pieces),
        language=next((piece.language for piece in pieces if piece.language is not None), None),
        duration_s=duration_s,
        segments=_after_each_other(segment for piece in pieces for segment in piece.segments),
        words=tuple(word for some in words for word in some) if words else None,
        usage=duration_usage(duration_s),
        extra=next((piece.extra for piece in pieces if piece.extra), _NOTHING),
    )


def duration_usage(duration_s: float | None) -> JsonObject | None:
    """Return OpenAI's usage for audio counted by its length: whole seconds, rounded up."""
    if duration_s is None:
        return None
    return {"type": "duration", "seconds": whole_seconds(duration_s)}


def join_texts(texts: Iterable[str]) -> str:
    """Put texts one after the other, with a space between words that need one."""
    parts: list[str] = []
    for text in texts:
        stripped = text.strip()
        if stripped:
            if parts:
                parts.append(separator(parts[-1], stripped))
            parts.append(stripped)
    return "".join(parts)


def separator(before: str, after: str) -> str:
    """Return what belongs between two texts that follow each other: a space, or nothing.

    Nothing where a space is already, and between letters of scripts written without spaces.
    """
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    return "" if is_unspaced(before[-1]) or is_unspaced(after[0]) else " "


def is_unspaced(character: str) -> bool:
    """Say whether a character's script is written without spaces between words.

    Chinese and Japanese, by the width that Unicode gives them, without Korean; and Thai, Lao,
    Burmese and Khmer.
    """
    code = ord(character)
    if code < 0x0E00:
        return False
    if code <= 0x0EFF or 0x1000 <= code <= 0x109F or 0x1780 <= code <= 0x17FF:
        return True
    if 0x1100 <= code <= 0x11FF or 0x3130 <= code <= 0x318F or 0xAC00 <= code <= 0xD7AF:
        return False
    return unicodedata.east_asian_width(character) in "WF"


def _others(fields: JsonObject, known: frozenset[str]) -> JsonObject:
    return {name: value for name, value in fields.items() if name not in known}


def _seconds(value: JsonValue) -> float | None:
    """Return a time to the millisecond; None for what is no finite time from 0 on."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return round(seconds, _MILLISECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def _read_segments(items: JsonValue, length_s: float | None) -> tuple[Segment, ...]:
    raw = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    worded: list[tuple[JsonObject, str]] = []
    for item in raw:
        text = item.get("text")
        text = _SPECIAL_TOKEN.sub("", text) if isinstance(text, str) else ""
        if text.strip():
            worded.append((item, text))
    times = _ordered([(item.get("start"), item.get("end")) for item, _ in worded], length_s)
    return tuple(
        Segment(start_s, end_s, text, _others(item, _SEGMENT_FIELDS))
        for (start_s, end_s), (item, text) in zip(times, worded, strict=True)
    )


def _read_words(items: Sequence[JsonValue], length_s: float | None) -> tuple[Word, ...]:
    raw = [
        (item, text)
        for item in items
        if isinstance(item, Mapping) and isinstance(text := item.get("word"), str)
    ]
    times = _ordered([(item.get("start"), item.get("end")) for item, _ in raw], length_s)
    return tuple(
        Word(start_s, end_s, text, _others(item, _WORD_FIELDS))
        for (start_s, end_s), (item, text) in zip(times, raw, strict=True)
    )


def _ordered(
    raw: Sequence[tuple[JsonValue, JsonValue]], length_s: float | None
) -> list[tuple[float, float]]:
    """Return times in order, inside the audio, without overlap.

    A start that disagrees with most of the others is not believed: one that says 29.98 in the
    middle would otherwise push all the rest to the end. Believed are the most starts that are in
    order already. What is not believed or absent takes the end before it.
    """
    last_s = math.inf if length_s is None else length_s

    def inside(value: JsonValue) -> float | None:
        seconds = _seconds(value)
        return None if seconds is None else min(seconds, last_s)

    starts = _in_order([inside(start) for start, _ in raw])
    ends = [inside(end) for _, end in raw]
    # The next believed start bounds each segment from behind.
    bounds: list[float] = []
    bound = last_s
    for start in reversed(starts):
        bounds.append(bound)
        bound = bound if start is None else start
    bounds.reverse()

    out: list[tuple[float, float]] = []
    before_s = 0.0
    for start, end, bound_s in zip(starts, ends, bounds, strict=True):
        start_s = before_s if start is None else start
        if end is None or end < start_s:
            end_s = bound_s if math.isfinite(bound_s) else start_s
        else:
            end_s = min(end, bound_s)
        out.append((start_s, end_s))
        before_s = end_s
    return out


def _in_order(values: list[float | None]) -> list[float | None]:
    """Keep the longest run of values that never falls, and put None for the others."""
    tails: list[float] = []
    tail_at: list[int] = []
    previous: list[int] = [-1] * len(values)
    for at, value in enumerate(values):
        if value is None:
            continue
        length = bisect_right(tails, value)
        previous[at] = tail_at[length - 1] if length else -1
        if length == len(tails):
            tails.append(value)
            tail_at.append(at)
        else:
            tails[length] = value
            tail_at[length] = at
    kept: list[float | None] = [None] * len(values)
    at = tail_at[-1] if tail_at else -1
    while at >= 0:
        kept[at] = values[at]
        at = previous[at]
    return kept


def _after_each_other(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    out: list[Segment] = []
    before_s = 0.0
    for segment in segments:
        start_s = max(segment.start_s, before_s)
        before_s = max(segment.end_s, start_s)
        is_fine = start_s == segment.start_s and before_s == segment.end_s
        out.append(segment if is_fine else replace(segment, start_s=start_s, end_s=before_s))
    return tuple(out)
