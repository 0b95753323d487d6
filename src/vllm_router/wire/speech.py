"""Where in an audio somebody speaks, and times moved to where they do.

Whisper lets the first sentence of a piece begin with the piece, and often lets a sentence last
until the next one begins; a subtitle that does so stands over silence.

Promises: spans are in order, inside the audio, and do not touch; a time is moved only to the edge
of a pause, and no segment is moved past another.

Bounds: the work is linear in the audio; spans of ten hours are some ten thousand.

Refuses to know: voices from other sounds. Music is speech here, and then nothing moves.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vllm_router.wire.transcript import Segment, Transcript

_FRAME_S = 0.01
# Within a word, stops and breaths are silent for up to some 150 ms.
_SHORTEST_PAUSE_S = 0.2
_SHORTEST_SPAN_S = 0.05
# Less than this between the quiet and the loud parts, and there is no telling them apart.
_LEAST_CONTRAST_DB = 12.0
# The threshold's height between the noise and the speech, in decibels of both.
_THRESHOLD_SHARE = 0.3
# The power of noise 70 dB below the loudest sine or so: dither, codecs. What is quieter is alike.
_QUIETEST = 100.0
# How far Whisper's times are off where speech is: more is no error of measurement.
_REACH_S = 0.35


class Span(NamedTuple):
    """A stretch of speech, in seconds."""

    start_s: float
    end_s: float


def speech_spans(pcm: bytes, rate_hz: int = 16_000) -> tuple[Span, ...]:
    """Find speech by its loudness over the audio's own noise.

    Args:
        pcm: Mono 16-bit little-endian samples; best one piece of an audio, in which the noise
            is about the same all along.
        rate_hz: Samples per second.

    Returns:
        The spans, their edges to 10 ms; the whole piece when loud and quiet differ too little.
    """
    frame = max(1, round(rate_hz * _FRAME_S))
    samples = np.frombuffer(pcm, dtype="<i2", count=len(pcm) // 2)
    length_s = round(len(samples) / rate_hz, 3)
    count = len(samples) // frame
    if count == 0:
        return (Span(0.0, length_s),) if length_s else ()
    frames = samples[: count * frame].reshape(count, frame).astype(np.float32)
    power = frames.var(axis=1)
    level_db = 10.0 * np.log10(power + _QUIETEST)
    # A maximum over three frames would widen speech; a mean keeps single clicks from counting.
    level_db = np.convolve(np.pad(level_db, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    quiet_db, loud_db = np.percentile(level_db, (5, 95))
    if loud_db - quiet_db < _LEAST_CONTRAST_DB:
        return (Span(0.0, length_s),)
    is_loud = level_db > quiet_db + _THRESHOLD_SHARE * (loud_db - quiet_db)
    edges = np.flatnonzero(np.diff(is_loud.astype(np.int8), prepend=0, append=0))
    spans: list[Span] = []
    for begin, end in edges.reshape(-1, 2).tolist():
        span = Span(round(begin * _FRAME_S, 3), round(end * _FRAME_S, 3))
        if spans and span.start_s - spans[-1].end_s < _SHORTEST_PAUSE_S:
            spans[-1] = Span(spans[-1].start_s, span.end_s)
        else:
            spans.append(span)
    return tuple(span for span in spans if span.end_s - span.start_s >= _SHORTEST_SPAN_S)


def moved(speech: Sequence[Span], offset_s: float) -> tuple[Span, ...]:
    """Return a piece's spans on the clock of an audio that it begins `offset_s` into."""
    return tuple(
        Span(round(start_s + offset_s, 3), round(end_s + offset_s, 3)) for start_s, end_s in speech
    )


def spans_within(speech: Sequence[Span], start_s: float, end_s: float) -> list[Span]:
    """Return the parts of the spans that lie between two times."""
    first = bisect_right(speech, start_s, key=lambda span: span.end_s)
    last = bisect_left(speech, end_s, key=lambda span: span.start_s)
    return [Span(max(span.start_s, start_s), min(span.end_s, end_s)) for span in speech[first:last]]


def snapped(transcript: Transcript, speech: Sequence[Span]) -> Transcript:
    """Return the transcript with each segment's edges moved out of pauses.

    An edge in a pause moves to the speech inside the segment. An edge up to 0.35 s inside a
    stretch of speech moves to that stretch's edge: before it where the stretch is the segment's,
    behind it where it is a neighbour's. A segment without any speech stays as it is.

    Args:
        transcript: With times on the same clock as the spans.
        speech: In order, from `speech_spans`.
    """
    out: list[Segment] = []
    before_s = 0.0
    for segment in transcript.segments:
        start_s, end_s = _fitted(segment.start_s, segment.end_s, speech)
        start_s = max(start_s, before_s)
        end_s = max(end_s, start_s)
        out.append(replace(segment, start_s=start_s, end_s=end_s))
        before_s = end_s
    return replace(transcript, segments=tuple(out))


def _fitted(start_s: float, end_s: float, speech: Sequence[Span]) -> tuple[float, float]:
    inside = spans_within(speech, start_s, end_s)
    if len(inside) > 1 and _is_remnant(speech, inside[0]):
        del inside[0]
    if len(inside) > 1 and _is_remnant(speech, inside[-1]):
        del inside[-1]
    if not inside:
        return start_s, end_s
    first, last = inside[0], inside[-1]
    whole_first, whole_last = _around(speech, first), _around(speech, last)
    if first.start_s - whole_first.start_s <= _REACH_S:
        start_s = whole_first.start_s
    if whole_last.end_s - last.end_s <= _REACH_S:
        end_s = whole_last.end_s
    return start_s, end_s


def _is_remnant(speech: Sequence[Span], part: Span) -> bool:
    """Say whether a part is a neighbour's: little of a span that lies mostly outside."""
    whole = _around(speech, part)
    length_s = part.end_s - part.start_s
    return length_s < _REACH_S and length_s < (whole.end_s - whole.start_s) / 2


def _around(speech: Sequence[Span], part: Span) -> Span:
    """Return the whole span that a part was cut from."""
    return speech[bisect_right(speech, part.start_s, key=lambda span: span.end_s)]
