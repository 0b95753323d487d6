"""Where somebody speaks, by the neural voice activity detector Silero, for a worker process.

Promises: noise, music and tones are not taken for speech, quiet speech is, and the same samples
give the same spans however they arrive; memory that does not depend on the audio's length; one
thread. Refuses to know: pieces, files, engines. It blocks, about 7 CPU seconds per hour of audio:
never call it on the event loop.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vllm_router.audio.levels import RATE_HZ, Samples
from vllm_router.audio.spans import OFF, ON, SpanFinder
from vllm_router.audio.wav import Buffer

# The layout of the model's input: each frame goes in behind the end of the one before it.
_FRAME: Final = 512
_CONTEXT: Final = 64
_STATE_SHAPE: Final = (1, 1, 128)
_MODEL: Final = Path(__file__).parent / "silero" / "silero_vad_16k_sequence.onnx"

# The volume follows the level in steps of this many frames (2 s), and one step ahead.
_STEP: Final = 64
_STEP_BYTES: Final = 2 * _FRAME * _STEP
# Frames per call of the model: beyond this many a call costs no less per frame.
_BLOCK: Final = 2 * _STEP

# The model finds speech between -5 and -60 dBFS, and takes some music for speech when it is very
# loud or very quiet. So all is brought near the middle, by the loudest sound within some seconds.
_WANTED_RMS: Final = 0.1
"""-20 dBFS; 5 dB more or less, and several times as much music is taken for speech."""
_LOUDEST: Final = 4
"""The fourth loudest frame in a step counts: three of them can be a click."""
_MAX_GAIN: Final = 300.0
_MIN_GAIN: Final = 0.25

_SHORTEST: Final = 8
"""Frames, 0.26 s: "yes" is longer, a cough of noise is not."""
_SHORTEST_PAUSE: Final = 4
"""Frames, 0.13 s: the closure of a consonant is shorter."""

# A tone that is held: in most of a quarter of a second the spectrum is what it was 0.13 s before.
# In recordings of people that is so in one frame of sixteen at most, in held chords in nearly all.
# Without this, the model goes on for seconds in chords that follow on speech.
_HELD_LAG: Final = 4
_HELD_FRAMES: Final = 8
_HELD_LEAST: Final = 5
_HELD_LIKENESS: Final = 0.97
_WINDOW: Final = np.hanning(2 * _FRAME).astype(np.float32)
_HELD_BINS: Final = slice(3, 256)
"""Of 15.6 Hz each: 50 Hz to 4 kHz, without what is below any voice."""

# After a long pause, above all one of noise or music, the model is slow to believe in a voice: of a
# soft first word it is sure half a second late or more. With a fresh state it is sure at once. So
# wherever speech begins after a pause, the model hears the sound around that once more, fresh.
_AGAIN_BEFORE: Final = (40, 64)
"""Frames, 1.3 and 2 s, heard again before the one that begins speech; the more if the fewer do not
show the beginning."""
_AGAIN_CLEAR: Final = 20
"""Frames before a beginning in the fewer ones that show that it is one."""
_AGAIN_DOUBT: Final = 0.15
"""A beginning is sudden, and stands, if the frames just before it were less likely than this."""
_AGAIN_AFTER: Final = 16
"""Frames, 0.51 s, heard again from there on, until the model's own state has come round."""
_AGAIN_PAUSE: Final = 31
"""Frames, 1 s: the state does not go stale in a shorter pause."""
_AGAIN_BLIPS: Final = 3
"""Likely frames in such a pause that do not end it."""
_SETTLING: Final = 8
"""Frames, 0.26 s, in which a fresh state may take music for speech: it must have heard none by
their end, or it is not believed."""

Frames = npt.NDArray[np.float32]


class Voice:
    """The model, loaded; it can be shared by detectors that take turns.

    Raises:
        MemoryError: There is no room for it.
    """

    def __init__(self) -> None:
        # Not at the top: the router itself, which never makes one, would hold it in memory.
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as failures
        except (ImportError, SystemError) as error:
            # What the interpreter says when memory ends in the middle of an import.
            raise MemoryError("there is no room to map its libraries") from error
        # It has no error of its own for a lack of memory; its input is always well formed.
        self._failures = (RuntimeError, failures.RuntimeException, failures.Fail)
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        # Errors only: warnings would go to a closed standard error.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(_MODEL), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise MemoryError(str(error)) from error

    def __repr__(self) -> str:
        return f"<Voice {_MODEL.name}>"

    def run(self, frames: Frames, state: tuple[Any, Any]) -> tuple[Frames, tuple[Any, Any]]:
        """Return the probability of speech of each frame, and the state for the next ones.

        Raises:
            MemoryError: There is no room to compute it.
        """
        inputs = {"input": frames, "h": state[0], "c": state[1]}
        try:
            probabilities, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
        except self._failures as error:
            raise MemoryError(str(error)) from error
        return np.asarray(probabilities, np.float32).reshape(-1), (hidden, cell)


class VoiceDetector:
    """Finds speech in one audio; feed it all samples in order, then `flush` it.

    Args:
        voice: The loaded model.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._pending = bytearray()
        self._state = _fresh_state()
        self._context = np.zeros(_CONTEXT, np.float32)
        self._finder = SpanFinder(shortest=_SHORTEST, shortest_pause=_SHORTEST_PAUSE)
        # Steps whose level is known, and the gain at the beginning of the first of them.
        self._steps: list[tuple[Frames, float]] = []
        self._gain: float | None = None
        self._ready: list[Frames] = []
        # The frame before the next, and likenesses and spectra that reach back from it.
        self._last = np.zeros((1, _FRAME), np.float32)
        self._spectra = np.zeros((_HELD_LAG, 253), np.float32)
        self._held = np.zeros(_HELD_FRAMES - 1, np.bool_)
        # What may be heard once more: frames, probabilities, and which of those stay at zero.
        self._recent = np.zeros((0, _FRAME), np.float32)
        self._likely = np.zeros(0, np.float32)
        self._silenced = np.zeros(0, np.bool_)
        self._heard_again = 0

    def __repr__(self) -> str:
        return f"<VoiceDetector {self.known / RATE_HZ:.2f} s known>"

    @property
    def known(self) -> int:
        """The sample before which no more speech will be found."""
        return self._finder.known * _FRAME

    def feed(self, pcm: Buffer) -> list[Samples]:
        """Take the next whole samples; return the speech, or parts of it, that they decide."""
        self._pending += pcm
        found: list[Samples] = []
        whole = len(self._pending) // _STEP_BYTES * _STEP_BYTES
        data = bytes(memoryview(self._pending)[:whole])
        del self._pending[:whole]
        for at in range(0, whole, _STEP_BYTES):
            found += self._take(_frames(data[at : at + _STEP_BYTES]))
        return found

    def flush(self) -> list[Samples]:
        """Return the speech that is left, when the audio has ended."""
        size_samples = len(self._pending) // 2
        end = (self._finder.at + len(self._likely)) * _FRAME + size_samples
        end += sum(len(step) for step, _ in self._steps) * _FRAME
        end += sum(len(step) for step in self._ready) * _FRAME
        found: list[Samples] = []
        if size_samples:
            self._pending += bytes(-len(self._pending) % (2 * _FRAME))
            found += self._take(_frames(bytes(self._pending)))
            self._pending.clear()
        if self._steps:
            (last, level), self._steps = self._steps[0], []
            self._ready.append(self._levelled(last, level, level))
        found += self._run()
        found += self._told(len(self._likely))
        found += _in_samples(self._finder.flush())
        return [(a, min(b, end)) for a, b in found if a < end]

    def _take(self, step: Frames) -> list[Samples]:
        """Take the next step, which says how loud the one before it is to be."""
        self._steps.append((step, _level(step)))
        if len(self._steps) < 2:
            return []
        (before, level), (_, next_level) = self._steps
        del self._steps[0]
        self._ready.append(self._levelled(before, level, next_level))
        return self._run() if len(self._ready) * _STEP >= _BLOCK else []

    def _levelled(self, step: Frames, level: float, next_level: float) -> Frames:
        """Return a step near the wanted level, without a jump at its ends."""
        first = self._gain if self._gain is not None else _gain(level)
        last = self._gain = _gain(max(level, next_level))
        curve = np.geomspace(first, last, len(step), dtype=np.float32)
        return step * curve[:, None]

    def _run(self) -> list[Samples]:
        if not self._ready:
            return []
        frames = np.concatenate(self._ready)
        self._ready.clear()
        likely, self._state = self._voice.run(_with_heads(self._context, frames), self._state)
        self._context = frames[-1, -_CONTEXT:].copy()
        is_held = self._is_held(frames)
        self._recent = np.concatenate((self._recent, frames))
        self._silenced = np.concatenate((self._silenced, is_held))
        self._likely = np.concatenate((self._likely, np.where(is_held, 0.0, likely)))
        self._hear_again(len(frames))
        return self._told(max(0, len(self._likely) - _AGAIN_BEFORE[-1]))

    def _told(self, count: int) -> list[Samples]:
        """Return the speech that the first frames at hand decide, and forget these."""
        found = self._finder.feed(self._likely[:count].tolist())
        self._recent = self._recent[count:].copy()
        self._likely = self._likely[count:]
        self._silenced = self._silenced[count:]
        self._heard_again = max(0, self._heard_again - count)
        return _in_samples(found)

    def _hear_again(self, fresh: int) -> None:
        """Hear the sound around each beginning of speech in the last frames once more."""
        likely, size = self._likely, len(self._likely)
        is_on = likely >= ON
        for found in np.flatnonzero(is_on[size - fresh :]):
            at = size - fresh + int(found)
            if at < max(self._heard_again, _AGAIN_PAUSE):
                continue
            if np.count_nonzero(is_on[at - _AGAIN_PAUSE : at]) > _AGAIN_BLIPS:
                continue
            if likely[at - _SHORTEST_PAUSE : at].max() < _AGAIN_DOUBT:
                continue
            past = self._heard_again = min(at + _AGAIN_AFTER, size)
            for count, least in zip(_AGAIN_BEFORE, (_AGAIN_CLEAR, _SETTLING), strict=True):
                first = max(0, at - count)
                again = self._heard_fresh(first, past)
                begin = _begin_of(again, at - first)
                if begin >= least:
                    # More speech than before, never less.
                    known = likely[first + begin : past]
                    np.maximum(known, again[begin:], out=known)
                    break

    def _heard_fresh(self, first: int, past: int) -> Frames:
        """Return how likely recent frames are for a model that has heard nothing before them."""
        frames = _with_heads(np.zeros(_CONTEXT, np.float32), self._recent[first:past])
        likely, _ = self._voice.run(frames, _fresh_state())
        return np.where(self._silenced[first:past], np.float32(0), likely)

    def _is_held(self, frames: Frames) -> npt.NDArray[np.bool_]:
        """Say of each frame whether it is in a tone that does not change."""
        pairs = np.concatenate((np.concatenate((self._last, frames[:-1])), frames), axis=1)
        self._last = frames[-1:].copy()
        fresh = np.abs(np.fft.rfft(pairs * _WINDOW, axis=1)[:, _HELD_BINS]).astype(np.float32)
        fresh /= np.linalg.norm(fresh, axis=1, keepdims=True) + 1e-9
        spectra = np.concatenate((self._spectra, fresh))
        self._spectra = spectra[-_HELD_LAG:]
        likeness = np.einsum("ij,ij->i", spectra[_HELD_LAG:], spectra[:-_HELD_LAG])
        held = np.concatenate((self._held, likeness > _HELD_LIKENESS))
        self._held = held[-(_HELD_FRAMES - 1) :]
        windows = np.lib.stride_tricks.sliding_window_view(held, _HELD_FRAMES)
        return np.asarray(windows.sum(axis=1) >= _HELD_LEAST)


def _frames(pcm: bytes) -> Frames:
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    return np.asarray(samples / 32768, np.float32).reshape(-1, _FRAME)


def _fresh_state() -> tuple[Any, Any]:
    return np.zeros(_STATE_SHAPE, np.float32), np.zeros(_STATE_SHAPE, np.float32)


def _with_heads(context: Frames, frames: Frames) -> Frames:
    """Return frames as the model takes them, each behind the end of the one before it."""
    heads = np.concatenate((context[None], frames[:-1, -_CONTEXT:]))
    return np.concatenate((heads, frames), axis=1)


def _begin_of(likely: Frames, at: int) -> int:
    """Return where the speech begins that a frame is in, which may be that frame."""
    begin = at
    for frame in range(at - 1, -1, -1):
        if likely[frame] >= OFF:
            begin = frame
        elif begin - frame >= _SHORTEST_PAUSE:
            break
    return begin


def _level(step: Frames) -> float:
    """Return the RMS of a step's loud frames; a constant offset counts zero."""
    power = np.sort(step.var(axis=1))
    return float(np.sqrt(power[-min(_LOUDEST, len(power))]))


def _gain(level: float) -> float:
    return min(max(_WANTED_RMS / max(level, 1e-6), _MIN_GAIN), _MAX_GAIN)


def _in_samples(spans: list[tuple[int, int]]) -> list[Samples]:
    return [(a * _FRAME, b * _FRAME) for a, b in spans]
