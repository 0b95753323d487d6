"""Spans of speech in an audio, in seconds."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple


class SpeechSpan(NamedTuple):
    """A span of speech, in seconds."""

    start_s: float
    end_s: float


def spans_within(speech: Sequence[SpeechSpan], start_s: float, end_s: float) -> list[SpeechSpan]:
    """Return the parts of the spans between two times.

    Args:
        speech: In order, without overlap, none empty.
        start_s: Seconds on the spans' clock.
        end_s: Likewise.
    """
    first = bisect_right(speech, start_s, key=itemgetter(1))
    last = bisect_left(speech, end_s, key=itemgetter(0))
    return [SpeechSpan(max(a, start_s), min(b, end_s)) for a, b in speech[first:last]]
