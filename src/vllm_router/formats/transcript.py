"""An engine's transcript: parsed from JSON, shifted in time, and joined from pieces.

Promises: after parsing, segments keep their order and their words, and their times are in order,
within the audio and without overlap, whatever the engine wrote. Unknown fields stay with their
segment or transcript.

Bounds: none of its own; the caller bounds the response's bytes.

Refuses to know: how a transcript is formatted (formats.py) and where the audio's pauses are.
"""

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vllm_router.formats.json_text import BadJson, JsonObject, JsonValue, read_object
from vllm_router.formats.usage_seconds import usage_in, whole_seconds

# Whisper's special tokens, which appear between words if an engine decodes them too.
_SPECIAL_TOKEN = re.compile(r"<\|(?:[0-9]+\.[0-9]{2}|[a-z]+)\|>")
# Segments begin with a space, and vLLM adds another between them in the text.
_SPACES = re.compile(" {2,}")
_SEGMENT_FIELDS = frozenset({"id", "start", "end", "text"})
_WORD_FIELDS = frozenset({"word", "start", "end"})
_FIELDS = frozenset({"task", "language", "duration", "text", "segments", "words", "usage"})
_MILLISECONDS = 3
_NOTHING: JsonObject = {}


class BadTranscript(ValueError):
    """The engine's response has no transcript."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word and its time, from an engine that provides them."""

    start_s: float
    end_s: float
    text: str
    extra: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """About a sentence, and its time in seconds from the start of the audio.

    Attributes:
        start_s: Not before the end of the previous segment.
        end_s: Not before `start_s`.
        text: As the engine wrote it, often with a leading space.
        extra: The engine's other fields, in its order (`seek`, `tokens`, `avg_logprob`, …).
        channel: Its channel, from 0; None if channels are not separated. Segments of different
            channels may overlap.
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
        text: All the words, without surrounding space.
        language: As the engine names it ("en").
        duration_s: The audio's length.
        segments: In the order of the words; empty if they were not requested from the engine.
        words: None if the engine provides none.
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
        """Return the transcript shifted by the piece's offset in the audio.

        Times are rounded to the millisecond. `duration_s` stays the piece's own.
        """
        return self.on_clock(lambda time_s: time_s + offset_s)

    def on_clock(self, clock: Callable[[float], float]) -> "Transcript":
        """Return the transcript with each time, in seconds, converted to another clock."""

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
    """Parse an engine's `json` or `verbose_json` response.

    The duration may be a number or, in older releases, a string. If the engine reports no usage, it
    is derived from the duration; ids and `task` are created when the transcript is written.
    Segments without words are omitted.

    Args:
        body: The response.
        duration_s: The audio's length as known to the router, which overrides the engine's.

    Raises:
        BadTranscript: Not a JSON object, or one without a `text`.
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
    """Join the pieces of one audio, each `shifted` to its place, in order.

    Args:
        parts: The pieces.
        duration_s: The whole audio's length; None adds up the pieces', if all are known.

    Returns:
        One text; the segments of all, none overlapping the previous piece; the first language
        found; usage as the duration in whole seconds, rounded up.
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
    """Return OpenAI's usage for audio billed by duration: whole seconds, rounded up."""
    if duration_s is None:
        return None
    return {"type": "duration", "seconds": whole_seconds(duration_s)}


def join_texts(texts: Iterable[str]) -> str:
    """Join texts, with a space between words that need one."""
    parts: list[str] = []
    for text in texts:
        stripped = text.strip()
        if stripped:
            if parts:
                parts.append(separator(parts[-1], stripped))
            parts.append(stripped)
    return "".join(parts)


def separator(before: str, after: str) -> str:
    """Return the separator of two consecutive texts: a space, or nothing.

    Nothing if there is already a space, and between letters of scripts written without spaces.
    """
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    return "" if is_unspaced(before[-1]) or is_unspaced(after[0]) else " "


def is_unspaced(character: str) -> bool:
    """Return whether a character's script is written without spaces between words.

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
    """Return a time to the millisecond; None if it is not a finite number from 0 on."""
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

    Starts that contradict most others are discarded: a single 29.98 in the middle would otherwise
    push all later times to the end. The longest sequence of starts in order is kept. A discarded or
    missing start becomes the previous end.
    """
    last_s = math.inf if length_s is None else length_s

    def inside(value: JsonValue) -> float | None:
        seconds = _seconds(value)
        return None if seconds is None else min(seconds, last_s)

    starts = _in_order([inside(start) for start, _ in raw])
    ends = [inside(end) for _, end in raw]
    # The next kept start limits the end of each segment.
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
    """Keep the longest run of values that never decreases, and replace the others by None."""
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
