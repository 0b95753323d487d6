"""Splits long audio into pieces of speech that engines accept.

Promises: it takes 16 kHz mono samples as they are decoded, and returns pieces of at most `max_s` as
soon as they are decided. A detector locates speech. Each moment of speech, with the audio around
it, is in exactly one piece. Anything else is removed, except for short pauses between phrases. Cuts
are made in pauses, the longest first; only speech without pauses is cut where it is quietest.
Alternatively, all audio is kept, in consecutive pieces that are cut at quiet places.
Holds about a piece and a half plus the last input, however long the audio has no speech.
Refuses to know: words, and how speech is detected.
"""

from itertools import pairwise
from typing import Final, Protocol

from vllm_router.audio.levels import (
    FRAME,
    FRAMES_PER_S,
    RATE_HZ,
    SHORTEST,
    Samples,
    frame_levels,
    quietest_cut,
)
from vllm_router.audio.packing import (
    KEPT_PAUSE,
    LEAD,
    PAD,
    REST,
    PieceRoom,
    how_many,
    lead_of,
    packed_length,
    tail_of,
)
from vllm_router.audio.piece import Piece, Seconds, Stretch
from vllm_router.audio.sample_buffer import SampleBuffer
from vllm_router.audio.wav import Buffer

__all__ = ["RATE_HZ", "Cutter", "Detector", "Piece"]

# Audio after the latest possible cut shows whether a pause continues, and prevents a last piece of
# a few milliseconds, which engines cannot transcribe.
_LOOKAHEAD: Final = RATE_HZ


class Detector(Protocol):
    """Locates speech, in samples from the audio's start; the parts of a span are contiguous."""

    @property
    def known(self) -> int:
        """The sample before which no more speech will be found."""

    def feed(self, pcm: Buffer) -> list[Samples]:
        """Take the next whole samples; return the speech that they decide."""

    def flush(self) -> list[Samples]:
        """Return the remaining speech after the audio has ended."""


class Cutter:
    """Cuts one audio; feed it all samples in order, then `flush` it.

    Args:
        detector: Locates speech in this audio only.
        max_s: Maximum length of a piece, at least 4 s. Whisper's window is 30 s.
        first_s: Maximum lengths of the first, second, … piece if these should be shorter, so that
            the first words arrive sooner; pieces without speech do not count.
        keeps_silence: Whether everything is kept, speech or not.
        max_lag_s: At a pause, a piece is cut at most this long after its first speech, however
            little speech there is; None: when a piece is full, or the audio ends.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        max_s: float = 30.0,
        first_s: tuple[float, ...] = (),
        keeps_silence: bool = False,
        max_lag_s: float | None = None,
    ) -> None:
        if min(max_s, *first_s, max_s) < 4:
            raise ValueError("pieces must be allowed at least 4 s")
        self._detector = detector
        self._limits = [int(s * RATE_HZ) for s in (*first_s, max_s)]
        self._keeps_silence = keeps_silence
        self._max_lag = None if max_lag_s is None else int(max_lag_s * RATE_HZ)
        self._held = SampleBuffer()
        self._odd = b""
        self._spans: list[Samples] = []
        self._known = 0
        self._has_ended = False
        self._index = 0
        self._spoken = 0
        self._spoken_samples = 0
        # End of the last piece: of its speech, or of all its audio if everything is kept.
        self._taken: int | None = None

    def __repr__(self) -> str:
        held_s = self._held.size / RATE_HZ
        return f"<Cutter piece {self._index} at {self.length_s:.2f} s, {held_s:.2f} s held>"

    @property
    def length_s(self) -> float:
        """Seconds of audio fed so far."""
        return self._held.end / RATE_HZ

    @property
    def next_s(self) -> float:
        """The earliest start of any further piece, in seconds."""
        if self._has_ended and not self._spans:
            return self.length_s
        if self._keeps_silence:
            return (self._taken or 0) / RATE_HZ
        first = self._spans[0][0] if self._spans else self._known
        return max(0, first - LEAD) / RATE_HZ

    @property
    def speech_s(self) -> float:
        """Seconds of speech found so far."""
        return self._spoken_samples / RATE_HZ

    def feed(self, pcm: Buffer) -> list[Piece]:
        """Take the next samples, cut anywhere; return the pieces that they decide."""
        data = self._odd + pcm if self._odd else pcm
        whole = len(data) // 2 * 2
        self._odd = bytes(data[whole:])
        if self._odd:
            data = data[:whole]
        self._held.add(data)
        self._note(self._detector.feed(data))
        known, self._known = self._known, self._detector.known
        # A decoder's frames are short, and most of them decide nothing.
        return self._decided() if self._keeps_silence or self._known > known else []

    def flush(self) -> list[Piece]:
        """Return the remaining pieces after the audio has ended; half a sample is dropped."""
        self._note(self._detector.flush())
        self._known = self._held.end
        self._has_ended = True
        return self._decided()

    @property
    def _limit(self) -> int:
        return self._limits[min(self._spoken, len(self._limits) - 1)]

    def _note(self, spans: list[Samples]) -> None:
        for first, past in spans:
            # The audio's last frame may be padded with silence.
            end = min(past, self._held.end)
            self._spoken_samples += end - first
            if self._spans and self._spans[-1][1] == first:
                self._spans[-1] = self._spans[-1][0], end
            else:
                self._spans.append((first, end))

    def _decided(self) -> list[Piece]:
        pieces = []
        while (piece := self._next_whole() if self._keeps_silence else self._next()) is not None:
            pieces.append(piece)
            self._index += 1
            self._spoken += not piece.is_silent
        return pieces

    def _next(self) -> Piece | None:
        """Return the next piece of speech, if it is decided."""
        if not self._spans:
            self._held.drop(0, max(0, self._known - LEAD))
            return None
        is_short = self._spoken < len(self._limits) - 1
        count = how_many(
            self._spans,
            PieceRoom(
                limit=self._limit,
                taken=self._taken,
                end=self._held.end if self._has_ended else None,
                rest=_LOOKAHEAD + PAD if is_short else REST,
            ),
        )
        if count is None and self._is_late():
            count = len(self._spans)
        if count is None:
            self._drop_pauses()
            return None
        if count == 0:
            self._split_first()
            count = 1
        following = self._spans[count] if count < len(self._spans) else None
        spans, self._spans = self._spans[:count], self._spans[count:]
        return self._packed(spans, following)

    def _is_late(self) -> bool:
        """Return whether the pending speech has waited long enough for more."""
        if self._max_lag is None or self._known - self._spans[0][0] <= self._max_lag:
            return False
        has_paused = self._known - self._spans[-1][1] >= KEPT_PAUSE
        lead = lead_of(self._spans[0], self._taken)
        return has_paused and packed_length(self._spans, lead, PAD) <= self._limit

    def _packed(self, spans: list[Samples], following: Samples | None) -> Piece:
        lead = lead_of(spans[0], self._taken)
        tail = tail_of(spans[-1], following, self._held.end)
        parts: list[bytes] = []
        stretches: list[Stretch] = []
        first, at = spans[0][0] - lead, 0
        ends = [*(pair for pair in pairwise(spans) if pair[1][0] - pair[0][1] > KEPT_PAUSE)]
        bounds = [(a[1] + PAD, b[0] - LEAD) for a, b in ends]
        for past, after in [*bounds, (spans[-1][1] + tail, 0)]:
            parts.append(self._held.between(first, past))
            stretches.append((at / RATE_HZ, first / RATE_HZ, (past - first) / RATE_HZ))
            at += past - first
            if after:
                parts.append(bytes(2 * (KEPT_PAUSE - PAD - LEAD)))
                at += KEPT_PAUSE - PAD - LEAD
                first = after
        past = spans[-1][1] + tail
        self._held.drop(0, past)
        self._taken = spans[-1][1]
        start = spans[0][0] - lead
        return Piece(
            self._index,
            start / RATE_HZ,
            past / RATE_HZ,
            b"".join(parts),
            _seconds(spans),
            tuple(stretches),
        )

    def _split_first(self) -> None:
        """Cut the first span where it is quietest: nobody speaks that long without a pause."""
        first, past = self._spans[0]
        room = self._limit - lead_of(self._spans[0], self._taken)
        window = self._held.between(first, min(past, first + room + _LOOKAHEAD))
        levels = frame_levels(window[: len(window) // (2 * FRAME) * 2 * FRAME])
        latest = min(room // FRAME, len(levels) - SHORTEST)
        cut = first + quietest_cut(levels, latest) * FRAME
        self._spans[:1] = [(first, cut), (cut, past)]

    def _drop_pauses(self) -> None:
        """Drop the middle of pauses that are longer than the part that is kept."""
        gaps = [(a[1], b[0]) for a, b in pairwise(self._spans)]
        for begin, end in [*gaps, (self._spans[-1][1], self._known)]:
            if end - begin > KEPT_PAUSE:
                self._held.drop(begin + PAD, end - LEAD)

    def _next_whole(self) -> Piece | None:
        """Return the next piece if everything is kept and the piece is decided."""
        start = self._taken or 0
        held = self._held.end - start
        is_enough = held >= self._limit + _LOOKAHEAD and self._known >= start + self._limit
        if not (is_enough or self._has_ended):
            return None
        if not held:
            return None
        size = held
        if held > self._limit:
            frames = (min(held, self._limit + _LOOKAHEAD)) // FRAME
            levels = frame_levels(self._held.between(start, start + frames * FRAME))
            size = FRAME * quietest_cut(levels, min(self._limit // FRAME, frames - FRAMES_PER_S))
        end = start + size
        pcm = self._held.between(start, end)
        self._held.drop(0, end)
        self._taken = end
        inside = [(max(a, start), min(b, end)) for a, b in self._spans if a < end]
        self._spans = [(max(a, end), b) for a, b in self._spans if b > end]
        return Piece(
            self._index,
            start / RATE_HZ,
            end / RATE_HZ,
            pcm,
            _seconds(inside),
            ((0.0, start / RATE_HZ, size / RATE_HZ),),
        )


def _seconds(spans: list[Samples]) -> tuple[Seconds, ...]:
    return tuple((a / RATE_HZ, b / RATE_HZ) for a, b in spans)
