"""Moves segment times to the edges of speech.

Whisper starts the first sentence of a piece with the piece, and often extends a sentence until the
next one begins; such a subtitle remains visible during silence.

Promises: a time is moved only to the edge of a speech span, and no segment past another.

Bounds: each segment costs a binary search plus the spans within it.

Refuses to know: samples. Speech spans come from the cutter (split.py), or are absent.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from vllm_router.audio.speech_spans import SpeechSpan, spans_within
from vllm_router.formats.transcript import Segment, Transcript

# The error of Whisper's times within speech; a larger difference is not a measurement error.
_REACH_S = 0.35


def snapped(transcript: Transcript, speech: Sequence[SpeechSpan]) -> Transcript:
    """Return the transcript with each segment's edges moved out of pauses.

    An edge in a pause moves to the speech inside the segment. An edge up to 0.35 s inside a
    speech span moves to that span's edge: outward if the span is the segment's, inward if it is a
    neighbor's. A segment without any speech stays unchanged.

    Args:
        transcript: With times on the same clock as the spans.
        speech: In order, without overlap, none empty.
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


def _fitted(start_s: float, end_s: float, speech: Sequence[SpeechSpan]) -> SpeechSpan:
    inside = spans_within(speech, start_s, end_s)
    if len(inside) > 1 and _is_remnant(speech, inside[0]):
        del inside[0]
    if len(inside) > 1 and _is_remnant(speech, inside[-1]):
        del inside[-1]
    if not inside:
        return SpeechSpan(start_s, end_s)
    whole_start_s = _around(speech, inside[0])[0]
    whole_end_s = _around(speech, inside[-1])[1]
    if inside[0][0] - whole_start_s <= _REACH_S:
        start_s = whole_start_s
    if whole_end_s - inside[-1][1] <= _REACH_S:
        end_s = whole_end_s
    return SpeechSpan(start_s, end_s)


def _is_remnant(speech: Sequence[SpeechSpan], part: SpeechSpan) -> bool:
    """Return whether a part is a neighbor's: a small part of a span that is mostly outside."""
    length_s = _length_s(part)
    return length_s < _REACH_S and length_s < _length_s(_around(speech, part)) / 2


def _around(speech: Sequence[SpeechSpan], part: SpeechSpan) -> SpeechSpan:
    """Return the whole span that contains a part."""
    return speech[bisect_right(speech, part[0], key=_end)]


def _end(span: SpeechSpan) -> float:
    return span[1]


def _length_s(span: SpeechSpan) -> float:
    return span[1] - span[0]
