"""Selects the speech spans of the next piece: a pure decision over positions in samples.

Promises: pieces never exceed the limit, and are cut in the longest pauses that still fill them,
because each window of 30 s costs an engine the same regardless of its content. A pause within a
piece counts at most `KEPT_PAUSE`, because the rest is removed. Refuses to know: samples, detectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vllm_router.audio.levels import RATE_HZ, Samples

PAD: Final = 2 * RATE_HZ // 5
"""Samples kept after speech, because its end fades."""
LEAD: Final = RATE_HZ // 2
"""Samples kept before speech. In none of 320 recordings, most after noise or music, did speech
begin more than 0.3 s before the detected span. Kept samples take up windows."""
KEPT_PAUSE: Final = 2 * RATE_HZ
"""A longer pause between two spans is shortened to this, which still sounds like a pause."""

_PHRASE_GAP: Final = RATE_HZ // 4
"""Shorter gaps separate words of one phrase."""
_WORD_GAP_COST: Final = 0.15
_LONG_PAUSE_S: Final = 0.8
"""Beyond this no pause is preferred. Shorter ones occur within sentences, and Whisper tends to omit
the rest of a sentence if a window begins within it."""
_FULL: Final = 0.8
"""The value of a full piece, in seconds of pause at its end."""
_LEAST_FULL: Final = 0.5
_BALANCE: Final = 0.3

REST: Final = 10 * RATE_HZ
"""If the last piece would be shorter than this, it shares the speech of the piece before it."""


@dataclass(frozen=True, slots=True)
class PieceRoom:
    """The space in the next piece.

    Attributes:
        limit: Maximum length.
        taken: End of the speech in earlier pieces; None for the first piece.
        end: End of the audio; None if not known yet.
        rest: How much more than a piece must be known before it is cut, so that the audio's last
            piece is not a single word.
    """

    limit: int
    taken: int | None
    end: int | None
    rest: int


def lead_of(first: Samples, taken: int | None) -> int:
    """Return how much audio before a span belongs to it, as far as earlier speech leaves it."""
    if taken is None:
        return min(LEAD, first[0])
    pause = first[0] - taken
    return min(LEAD, pause - min(PAD, pause // 2))


def tail_of(last: Samples, following: Samples | None, end: int | None) -> int:
    """Return how much audio after a span belongs to it."""
    if following is not None:
        return min(PAD, (following[0] - last[1]) // 2)
    return PAD if end is None else min(PAD, end - last[1])


def packed_length(spans: Sequence[Samples], lead: int, tail: int) -> int:
    """Return the length of a piece of these spans."""
    gaps = sum(min(b[0] - a[1], KEPT_PAUSE) for a, b in pairwise(spans))
    return lead + sum(b - a for a, b in spans) + gaps + tail


def how_many(spans: Sequence[Samples], room: PieceRoom) -> int | None:
    """Return how many of the spans the next piece takes.

    Returns:
        0 if the first span alone is too long; None if more audio is needed to decide.
    """
    lead = lead_of(spans[0], room.taken)
    lengths = [lead]
    for k, span in enumerate(spans):
        gap = min(span[0] - spans[k - 1][1], KEPT_PAUSE) if k else 0
        lengths.append(lengths[-1] + gap + span[1] - span[0])
    count = len(spans)
    tails = [tail_of(a, b, room.end) for a, b in pairwise(spans)]
    tails.append(tail_of(spans[-1], None, room.end))
    whole = lengths[-1] + tails[-1]
    if whole <= room.limit:
        return count if room.end is not None else None
    if room.end is None and whole <= room.limit + room.rest:
        return None
    fitting = [k for k in range(1, count) if lengths[k] + tails[k - 1] <= room.limit]
    if not fitting:
        return 0
    if room.end is not None:
        halves = {
            k: packed_length(spans[k:], lead_of(spans[k], spans[k - 1][1]), tails[-1])
            for k in fitting
        }
        both = [k for k in fitting if halves[k] <= room.limit]
        if both:
            # Two pieces are needed in any case: cut in the best pause, so that neither is short.
            return max(
                both,
                key=lambda k: (
                    _worth(spans, k)
                    + _BALANCE * min(lengths[k] + tails[k - 1], halves[k]) / room.limit
                ),
            )
    least = min(lengths[fitting[-1]], _LEAST_FULL * room.limit)
    return max(
        (k for k in fitting if lengths[k] >= least),
        key=lambda k: _worth(spans, k) + _FULL * lengths[k] / room.limit,
    )


def _worth(spans: Sequence[Samples], at: int) -> float:
    """Return the value of a cut before a span, in seconds of pause."""
    gap = spans[at][0] - spans[at - 1][1]
    return min(gap / RATE_HZ, _LONG_PAUSE_S) - (_WORD_GAP_COST if gap < _PHRASE_GAP else 0.0)
