"""A piece of a long audio: its samples, and its position and speech within the whole.

Promises: values, and pure functions of them. Refuses to know: how pieces are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vllm_router.audio.levels import RATE_HZ
from vllm_router.audio.wav import pcm16_wav

Seconds = tuple[float, float]
Stretch = tuple[float, float, float]
"""(start in the piece, start in the audio, length), in seconds."""

_LONG_PAUSE_S: Final = 1.0
"""Beyond this a pause between two halves is not preferred."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the audio, cut for one engine.

    Attributes:
        index: 0 for the first.
        start_s: Its start in the whole audio, in seconds.
        end_s: Its end; the next piece may begin later.
        pcm: Its samples: 16 kHz, mono, 16 bits, little-endian.
        speech: (start, end) of each speech span, in seconds of the whole audio, in order.
        stretches: Sources of its samples. Between two of them, digital silence replaces a longer
            pause.
        channel: Its channel, from 0, if channels are cut separately; None if there is one.
        frontier_s: No later piece of any channel starts before this time.
    """

    index: int
    start_s: float
    end_s: float
    pcm: bytes
    speech: tuple[Seconds, ...]
    stretches: tuple[Stretch, ...]
    channel: int | None = None
    frontier_s: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether it has no speech."""
        return not self.speech

    @property
    def length_s(self) -> float:
        """Its duration, which is less than from start to end if pauses were shortened."""
        return len(self.pcm) / 2 / RATE_HZ

    def wav(self) -> bytes:
        """Return the samples as a WAV file."""
        return pcm16_wav(self.pcm, RATE_HZ)


@dataclass(frozen=True, slots=True)
class PiecePart:
    """A part of a piece, without its samples.

    Attributes:
        first_byte: Offset of its samples in those of the piece.
        past_byte: End of its samples.
        speech: As in a piece.
        stretches: As in a piece, but starting at 0 again.
    """

    first_byte: int
    past_byte: int
    speech: tuple[Seconds, ...]
    stretches: tuple[Stretch, ...]

    @property
    def start_s(self) -> float:
        """Its start in the whole audio."""
        return self.stretches[0][1]

    @property
    def end_s(self) -> float:
        """Its end in the whole audio."""
        _, start_s, length_s = self.stretches[-1]
        return start_s + length_s


def halved(
    speech: Sequence[Seconds], stretches: Sequence[Stretch]
) -> tuple[PiecePart, PiecePart] | None:
    """Cut a piece in two, in the middle of the longest pause near its center.

    Every sample is in one of the parts, except for digital silence at the cut.

    Args:
        speech: The piece's speech.
        stretches: The piece's stretches.

    Returns:
        The two parts; None if there is no pause between two speech spans.
    """
    places = [placed(start_s, stretches) for start_s, _ in speech]
    ends = [placed(end_s, stretches) for _, end_s in speech]
    total_s = stretches[-1][0] + stretches[-1][2]
    best, cut = 0.0, None
    for k, (end_s, start_s) in enumerate(zip(ends, places[1:], strict=False), 1):
        middle_s = (end_s + start_s) / 2
        worth = min(start_s - end_s, _LONG_PAUSE_S) + min(middle_s, total_s - middle_s) / total_s
        if start_s > end_s and worth > best:
            best, cut = worth, k
    if cut is None:
        return None
    at = round((ends[cut - 1] + places[cut]) / 2 * RATE_HZ)
    before = [_cut(stretch, 0, at) for stretch in stretches]
    after = [_cut(stretch, at, round(total_s * RATE_HZ)) for stretch in stretches]
    return (
        _part([s for s in before if s is not None], tuple(speech[:cut])),
        _part([s for s in after if s is not None], tuple(speech[cut:])),
    )


def halves(piece: Piece) -> tuple[Piece, Piece] | None:
    """Return a piece in two parts; None if it has no pause."""
    parts = halved(piece.speech, piece.stretches)
    if parts is None:
        return None
    first, second = (
        Piece(
            piece.index,
            part.start_s,
            part.end_s,
            piece.pcm[part.first_byte : part.past_byte],
            part.speech,
            part.stretches,
        )
        for part in parts
    )
    return first, second


def placed(at_s: float, stretches: Sequence[Stretch]) -> float:
    """Return where in a piece a time of the audio is; the nearest place if it was removed."""
    for own_s, start_s, length_s in stretches:
        if at_s <= start_s + length_s:
            return own_s + max(0.0, at_s - start_s)
    own_s, _, length_s = stretches[-1]
    return own_s + length_s


def heard_at(own_s: float, stretches: Sequence[Stretch]) -> float:
    """Return the time in the audio of a place in a piece.

    Digital silence represents the removed pause, from its beginning to its end.
    """
    first = stretches[0]
    if own_s <= first[0]:
        return first[1]
    for (own, start_s, length_s), following in pairwise(stretches):
        if own_s <= own + length_s:
            return start_s + own_s - own
        if own_s < following[0]:
            share = (own_s - own - length_s) / (following[0] - own - length_s)
            left_out_s = following[1] - start_s - length_s
            return start_s + length_s + share * left_out_s
    own, start_s, length_s = stretches[-1]
    return start_s + min(own_s - own, length_s)


def _cut(stretch: Stretch, begin: int, end: int) -> tuple[int, int, int] | None:
    """Return (place, start, length) in samples of the part between two places; None if empty."""
    own, start, length = (round(s * RATE_HZ) for s in stretch)
    first, past = max(own, begin), min(own + length, end)
    return (first, start + first - own, past - first) if first < past else None


def _part(stretches: list[tuple[int, int, int]], speech: tuple[Seconds, ...]) -> PiecePart:
    first = stretches[0][0]
    past = stretches[-1][0] + stretches[-1][2]
    return PiecePart(
        2 * first,
        2 * past,
        speech,
        tuple(
            ((own - first) / RATE_HZ, start / RATE_HZ, length / RATE_HZ)
            for own, start, length in stretches
        ),
    )
