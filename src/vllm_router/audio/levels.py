"""Sound levels: where audio is loud enough to be speech, and where it is quiet enough to cut.

Promises: pure functions of 16 kHz mono 16-bit samples, measured every 10 ms, and a detector that
applies them to audio of any length in bounded memory. Bounds: a level cannot distinguish speech
from loud music or noise; `audio/decoding/voice_activity.py` can. Refuses to know: pieces, engines.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from vllm_router.audio.wav import Buffer

RATE_HZ: Final = 16_000
FRAME: Final = 160
"""Samples per level measurement: 10 ms, short enough to detect the gap between two words."""
FRAMES_PER_S: Final = RATE_HZ // FRAME
FRAME_BYTES: Final = 2 * FRAME
SHORTEST: Final = FRAMES_PER_S
"""Frames of the shortest piece: engines cannot transcribe a few milliseconds."""

# Levels are in dB relative to one 16-bit unit: 24 is an RMS of 16 (-66 dBFS), 55 one of 560.
_DIGITAL_SILENCE_DB: Final = 6.0
_ALWAYS_SILENT_DB: Final = 24.0
_NEVER_SILENT_DB: Final = 55.0
_SPEECH_OVER_NOISE_DB: Final = 8.0
_SHORTEST_SOUND: Final = 6
"""Frames: a click or a keystroke ends within 60 ms, a spoken vowel does not."""
_JOINED_GAP: Final = 25
"""Frames: gaps within a phrase are shorter than 0.25 s, pauses between sentences longer."""

# A cut is rated by the mean level around it at these widths (in frames), so that a long pause is
# preferred to a short one. Beyond 0.4 s no pause is preferred: a longer one causes no fewer word
# errors, and pieces get longer if it comes later.
_WIDTHS: Final = (10, 20, 40)
_LATE_DB_PER_S: Final = 0.3
_EARLY_DB_PER_S: Final = 0.5
_PREFERRED_SHARE: Final = 0.4
_PAUSE_OVER_QUIET_DB: Final = 8.0
# The next piece gets all of a long pause except this, so that the speech before it can fade.
_MARGIN: Final = 30
_LONG_PAUSE: Final = 80

# The noise is measured over one window of Whisper, plus a second to see whether a sound continues.
_WINDOW: Final = 30 * FRAMES_PER_S
_LOOKAHEAD: Final = FRAMES_PER_S

Levels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Samples = tuple[int, int]
"""A span of the audio: its first sample and the one after its last."""


class LevelDetector:
    """Treats sound that exceeds the noise as speech; feed it all samples in order."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._levels = np.zeros(0, np.float32)
        self._at = 0

    def __repr__(self) -> str:
        return f"<LevelDetector at {self._at / FRAMES_PER_S:.2f} s>"

    @property
    def known(self) -> int:
        """The sample before which no more speech will be found."""
        return self._at * FRAME

    def feed(self, pcm: Buffer) -> list[Samples]:
        """Take the next whole samples; return the speech that they decide."""
        self._pending += pcm
        size = len(self._pending) // FRAME_BYTES * FRAME_BYTES
        fresh = bytes(memoryview(self._pending)[:size])
        del self._pending[:size]
        self._levels = np.concatenate((self._levels, frame_levels(fresh)))
        found = []
        while len(self._levels) >= _WINDOW + _LOOKAHEAD:
            found += self._take(_WINDOW)
        return found

    def flush(self) -> list[Samples]:
        """Return the remaining speech after the audio has ended."""
        return self._take(len(self._levels))

    def _take(self, count: int) -> list[Samples]:
        spans = phrases(speech_mask(self._levels[: _WINDOW + _LOOKAHEAD]))
        self._levels = self._levels[count:]
        start, self._at = self._at, self._at + count
        return [
            ((start + a) * FRAME, (start + min(b, count)) * FRAME) for a, b in spans if a < count
        ]


def frame_levels(pcm: Buffer) -> Levels:
    """Return the level of each whole 10 ms, in dB over one unit; a constant offset is ignored."""
    samples = np.frombuffer(pcm, "<i2")
    frames = samples.reshape(-1, FRAME).astype(np.float32)
    mean = frames.mean(axis=1)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME - mean * mean
    return np.asarray(10 * np.log10(np.maximum(power, 1.0)), np.float32)


def speech_mask(levels: Levels) -> Mask:
    """Return for each 10 ms whether it can be speech, relative to the noise of the whole stretch.

    Steady noise of any kind is silence, unless it is loud: a tone or music is left to the engine.
    Below an RMS of 16 everything is silence.
    """
    heard = levels[levels > _DIGITAL_SILENCE_DB]
    if not len(heard):
        return np.zeros(len(levels), np.bool_)
    noise_db = float(np.percentile(heard, 10))
    threshold = max(noise_db + _SPEECH_OVER_NOISE_DB, _ALWAYS_SILENT_DB)
    return np.asarray(levels > min(threshold, _NEVER_SILENT_DB))


def phrases(mask: Mask) -> list[tuple[int, int]]:
    """Return (first, past last) frame of each phrase: long sounds, with small gaps closed."""
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
    # Everything far below the loud parts is equally quiet: a long pause with a little noise is
    # preferred to a silent instant within a word.
    loud_db = float(np.percentile(levels, 95))
    quiet_db = max(float(_smooth(levels, 5).min()) + 3, min(27.6, loud_db - 25))
    clipped = np.maximum(levels, quiet_db)
    score = sum(_smooth(clipped, width) for width in _WIDTHS) / len(_WIDTHS)
    before_end_s = (latest - np.arange(len(levels))) / FRAMES_PER_S
    preferred_s = _PREFERRED_SHARE * latest / FRAMES_PER_S
    score = score + _LATE_DB_PER_S * before_end_s
    score = score + _EARLY_DB_PER_S * np.maximum(0, before_end_s - preferred_s)
    earliest = min(SHORTEST, latest)
    best = earliest + int(np.argmin(score[earliest : latest + 1]))
    if loud_db - quiet_db < _PAUSE_OVER_QUIET_DB:
        # A constant level, such as a tone or music: there is no pause to center in.
        return best
    return min(max(_middle_of_pause(levels, best, quiet_db), earliest), latest)


def _middle_of_pause(levels: Levels, at: int, quiet_db: float) -> int:
    is_loud = _smooth(levels, 3) > quiet_db + _PAUSE_OVER_QUIET_DB / 2
    before, after = np.flatnonzero(is_loud[: at + 1]), np.flatnonzero(is_loud[at:])
    begin = int(before[-1]) + 1 if len(before) else 0
    end = at + int(after[0]) if len(after) else len(levels)
    if end <= begin:
        return at
    # The next piece gets nearly all of a long pause, and can then omit it.
    return begin + _MARGIN if end - begin >= _LONG_PAUSE else (begin + end) // 2


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
