"""Where to cut long audio: into pieces that engines take, in the quietest places there are.

Promises: 16 kHz mono samples go in as they are decoded and come out in pieces of at most
`max_s`, none lost, none doubled; a piece comes out as soon as it is decided, one second after its
last possible cut. Cuts lie in the middle of a pause where there is one, between sentences rather
than between words, and late rather than early, because an engine pays for 30 s whatever it gets.
A pause that is long enough becomes a piece of its own, which nobody need hear.
Holds no more than one piece and what was last fed. Refuses to know: words. Speech is told from
silence by level alone, against the noise of the moment.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vllm_router.wire.wav import Buffer, pcm16_wav

RATE_HZ: Final = 16_000
FRAME: Final = 160
"""Samples in one level measurement: 10 ms, short enough to see the gap between two words."""
_FRAMES_PER_S: Final = RATE_HZ // FRAME
_FRAME_BYTES: Final = 2 * FRAME

# What lies past the latest possible cut shows whether a pause goes on, and keeps the rest of the
# audio from being a sliver: no engine makes sense of a few milliseconds.
_LOOKAHEAD: Final = _FRAMES_PER_S
_SHORTEST: Final = _FRAMES_PER_S

# Levels are in dB over one unit of 16 bits: 24 is an RMS of 16 (-66 dBFS), 55 one of 560.
_DIGITAL_SILENCE_DB: Final = 6.0
_ALWAYS_SILENT_DB: Final = 24.0
_NEVER_SILENT_DB: Final = 55.0
_SPEECH_OVER_NOISE_DB: Final = 8.0
_SHORTEST_SOUND: Final = 6
"""Frames: a click or a key stroke is over in 60 ms, a spoken vowel is not."""
_JOINED_GAP: Final = 25
"""Frames: gaps inside a phrase stay below 0.25 s, pauses between sentences above."""

# A cut is judged by the mean level around it at these widths (in frames), so that a long pause
# beats a short one; past 0.4 s no pause is better than another: no fewer words are wrong, and
# pieces are longer where such a pause comes later.
_WIDTHS: Final = (10, 20, 40)
_LATE_DB_PER_S: Final = 0.3
_EARLY_DB_PER_S: Final = 0.5
_PREFERRED_SHARE: Final = 0.4
_PAUSE_OVER_QUIET_DB: Final = 8.0

# A pause between two pieces is a silent piece of its own, but for what is left around speech: an
# engine takes 30 s at a time, and silence in them is paid for like speech. Faint sounds at the ends
# of words are over within the margin.
_MARGIN: Final = 30
_LONE_SILENCE: Final = 80

Levels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the audio, cut for one engine.

    Attributes:
        index: 0 for the first.
        start_s: Where it begins in the whole audio, in seconds.
        end_s: Where it ends, which is where the next one begins.
        pcm: Its samples: 16 kHz, mono, 16 bits, little-endian.
        speech: (start, end) of each phrase, in seconds of the whole audio, at least 0.25 s apart.
    """

    index: int
    start_s: float
    end_s: float
    pcm: bytes
    speech: tuple[tuple[float, float], ...]

    @property
    def is_silent(self) -> bool:
        """There is nothing in it that could be speech."""
        return not self.speech

    def wav(self) -> bytes:
        """Return the samples as a WAV file."""
        return pcm16_wav(self.pcm, RATE_HZ)


class Cutter:
    """Cuts one audio; feed it all samples in order, then `flush` it.

    Args:
        max_s: Longest piece, at least 4 s. Whisper's window is 30 s.
        first_s: Longest first, second, … piece where these should be shorter, so that the first
            words are there sooner; pieces of silence do not count.
        keeps_silence: Whether silence stays with the speech around it.
    """

    def __init__(
        self,
        *,
        max_s: float = 30.0,
        first_s: tuple[float, ...] = (),
        keeps_silence: bool = False,
    ) -> None:
        if min(max_s, *first_s, max_s) < 4:
            raise ValueError("pieces must be allowed at least 4 s")
        self._limits = [int(s * _FRAMES_PER_S) for s in (*first_s, max_s)]
        self._keeps_silence = keeps_silence
        self._pending = bytearray()
        self._levels = np.zeros(0, np.float32)
        self._index = 0
        self._spoken = 0
        self._at = 0

    def __repr__(self) -> str:
        pending_s = len(self._pending) / 2 / RATE_HZ
        return f"<Cutter piece {self._index} at {self._at / RATE_HZ:.2f} s, {pending_s:.2f} s held>"

    def feed(self, pcm: Buffer) -> list[Piece]:
        """Take the next samples, cut anywhere; return the pieces that they decide."""
        self._pending += pcm
        pieces = []
        while len(self._pending) >= (self._limit + _LOOKAHEAD) * _FRAME_BYTES:
            self._measure()
            pieces.append(self._cut())
        return pieces

    def flush(self) -> list[Piece]:
        """Return what is left, when the audio has ended."""
        if len(self._pending) % 2:
            del self._pending[-1]
        self._measure()
        pieces = []
        while len(self._pending) > self._limit * _FRAME_BYTES:
            pieces.append(self._cut())
        if self._pending:
            pieces.append(self._take(len(self._pending), phrases(speech_mask(self._levels))))
        return pieces

    @property
    def _limit(self) -> int:
        return self._limits[min(self._spoken, len(self._limits) - 1)]

    def _measure(self) -> None:
        """Bring the levels up to the samples held, one window at a time when much was fed."""
        until = min(len(self._pending) // _FRAME_BYTES, self._limit + _LOOKAHEAD)
        done = len(self._levels)
        if until > done:
            fresh = memoryview(self._pending)[done * _FRAME_BYTES : until * _FRAME_BYTES]
            self._levels = np.concatenate((self._levels, frame_levels(fresh)))

    def _cut(self) -> Piece:
        self._measure()
        window = self._levels[: self._limit + _LOOKAHEAD]
        mask = speech_mask(window)
        spoken = phrases(mask)
        latest = min(self._limit, len(window) - _SHORTEST)
        onset = spoken[0][0] if spoken else len(window)
        silent = window[: min(latest, onset - _MARGIN)]
        is_alone = onset >= _LONE_SILENCE - _MARGIN and not self._keeps_silence
        is_silent = is_alone and _is_steady(silent)
        cut = len(silent) if is_silent else quietest_cut(window, latest)
        return self._take(cut * _FRAME_BYTES, spoken)

    def _take(self, size_bytes: int, spoken: list[tuple[int, int]]) -> Piece:
        pcm = bytes(memoryview(self._pending)[:size_bytes])
        del self._pending[:size_bytes]
        frames = size_bytes // _FRAME_BYTES
        self._levels = self._levels[frames:]
        start = self._at
        self._at += size_bytes // 2
        speech = tuple(
            ((start + a * FRAME) / RATE_HZ, (start + min(b, frames) * FRAME) / RATE_HZ)
            for a, b in spoken
            if a < frames
        )
        piece = Piece(self._index, start / RATE_HZ, self._at / RATE_HZ, pcm, speech)
        self._index += 1
        self._spoken += not piece.is_silent
        return piece


def frame_levels(pcm: Buffer) -> Levels:
    """Return the level of each whole 10 ms, in dB over one unit; a constant offset counts zero."""
    samples = np.frombuffer(pcm, "<i2")
    frames = samples.reshape(-1, FRAME).astype(np.float32)
    mean = frames.mean(axis=1)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME - mean * mean
    return np.asarray(10 * np.log10(np.maximum(power, 1.0)), np.float32)


def speech_mask(levels: Levels) -> Mask:
    """Say of each 10 ms whether it can be speech, against the noise in the whole stretch.

    Steady noise is silence however it sounds, unless it is loud: a tone or music is for the
    engine to judge. Below an RMS of 16 all is silence.
    """
    heard = levels[levels > _DIGITAL_SILENCE_DB]
    if not len(heard):
        return np.zeros(len(levels), np.bool_)
    noise_db = float(np.percentile(heard, 10))
    threshold = max(noise_db + _SPEECH_OVER_NOISE_DB, _ALWAYS_SILENT_DB)
    return np.asarray(levels > min(threshold, _NEVER_SILENT_DB))


def phrases(mask: Mask) -> list[tuple[int, int]]:
    """Return (first, past last) frame of each phrase: sound long enough, small gaps closed."""
    found: list[tuple[int, int]] = []
    for a, b in _runs(mask):
        if b - a < _SHORTEST_SOUND:
            continue
        if found and a - found[-1][1] < _JOINED_GAP:
            found[-1] = found[-1][0], b
        else:
            found.append((a, b))
    return found


def quietest_cut(levels: Levels, latest: int) -> int:
    """Return the frame before which to cut, 1 s at the earliest, `latest` at the latest."""
    # All that is far below the loud parts is equally quiet: a long pause with a little noise in
    # it beats the dead instant inside a word.
    loud_db = float(np.percentile(levels, 95))
    quiet_db = max(float(_smooth(levels, 5).min()) + 3, min(27.6, loud_db - 25))
    clipped = np.maximum(levels, quiet_db)
    score = sum(_smooth(clipped, width) for width in _WIDTHS) / len(_WIDTHS)
    before_end_s = (latest - np.arange(len(levels))) / _FRAMES_PER_S
    preferred_s = _PREFERRED_SHARE * latest / _FRAMES_PER_S
    score = score + _LATE_DB_PER_S * before_end_s
    score = score + _EARLY_DB_PER_S * np.maximum(0, before_end_s - preferred_s)
    earliest = min(_SHORTEST, latest)
    best = earliest + int(np.argmin(score[earliest : latest + 1]))
    if loud_db - quiet_db < _PAUSE_OVER_QUIET_DB:
        # One level throughout, a tone or music: there is no pause to be in the middle of.
        return best
    return min(max(_middle_of_pause(levels, best, quiet_db), earliest), latest)


def _is_steady(levels: Levels) -> bool:
    """Say whether nothing stands out of the stretch itself, however loud its surroundings are."""
    own_db = float(np.percentile(levels, 20)) + _SPEECH_OVER_NOISE_DB
    return not phrases(levels > max(own_db, _ALWAYS_SILENT_DB))


def _middle_of_pause(levels: Levels, at: int, quiet_db: float) -> int:
    is_loud = _smooth(levels, 3) > quiet_db + _PAUSE_OVER_QUIET_DB / 2
    before, after = np.flatnonzero(is_loud[: at + 1]), np.flatnonzero(is_loud[at:])
    begin = int(before[-1]) + 1 if len(before) else 0
    end = at + int(after[0]) if len(after) else len(levels)
    if end <= begin:
        return at
    # Of a long pause the next piece gets nearly all, and can then leave it out.
    return begin + _MARGIN if end - begin >= _LONE_SILENCE else (begin + end) // 2


def _smooth(levels: Levels, width: int) -> Levels:
    """Return the mean over `width` frames around each frame's beginning; edges are repeated."""
    padded = np.concatenate(
        (np.repeat(levels[:1], width // 2), levels, np.repeat(levels[-1:], width - width // 2 - 1))
    )
    sums = np.concatenate(([0.0], np.cumsum(padded, dtype=np.float64)))
    return ((sums[width:] - sums[:-width]) / width).astype(np.float32)


def _runs(mask: Mask) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
