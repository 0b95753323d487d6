"""Detects speech with the neural voice activity detector Silero, for a worker process.

Promises: does not classify noise, music and tones as speech, but does classify quiet speech; the
same samples give the same spans however they arrive; memory use does not depend on the audio's
length; one thread. Refuses to know: pieces, files, engines. It blocks, for about 7 CPU seconds per
hour of audio: never call it on the event loop.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vllm_router.audio.levels import RATE_HZ, Samples
from vllm_router.audio.spans import OFF, ON, SpanFinder
from vllm_router.audio.wav import Buffer

# The model's input layout: each frame is preceded by the end of the previous one.
_FRAME: Final = 512
_CONTEXT: Final = 64
_STATE_SHAPE: Final = (1, 1, 128)
_MODEL: Final = Path(__file__).parent / "silero" / "silero_vad_16k_sequence.onnx"

# The gain follows the level in steps of this many frames (2 s), with one step of lookahead.
_STEP: Final = 64
_STEP_BYTES: Final = 2 * _FRAME * _STEP
# Frames per model call: more do not reduce the cost per frame.
_BLOCK: Final = 2 * _STEP

# The model detects speech between -5 and -60 dBFS, and mistakes some very loud or very quiet music
# for speech. So the level is normalized by the loudest sound within some seconds.
_WANTED_RMS: Final = 0.1
"""-20 dBFS; 5 dB more or less causes several times as many false detections in music."""
_LOUDEST: Final = 4
"""The fourth loudest frame in a step counts, because the first three can be a click."""
_MAX_GAIN: Final = 300.0
_MIN_GAIN: Final = 0.25

_SHORTEST: Final = 8
"""Frames, 0.26 s: "yes" is longer, a cough-like noise is shorter."""
_SHORTEST_PAUSE: Final = 4
"""Frames, 0.13 s: the closure of a consonant is shorter."""

# A sustained tone: in most of a quarter of a second the spectrum equals that of 0.13 s before. This
# holds for at most one frame in sixteen of recorded speech, but for nearly all of sustained chords.
# Without this check, detection continues for seconds in chords that follow speech.
_HELD_LAG: Final = 4
_HELD_FRAMES: Final = 8
_HELD_LEAST: Final = 5
_HELD_LIKENESS: Final = 0.97
_WINDOW: Final = np.hanning(2 * _FRAME).astype(np.float32)
_HELD_BINS: Final = slice(3, 256)
"""Of 15.6 Hz each: 50 Hz to 4 kHz, without frequencies below any voice."""

# After a long pause, especially with noise or music, the model detects a voice late: a soft first
# word only after half a second or more. With a fresh state it detects it at once. So wherever
# speech begins after a pause, the surrounding frames are run again with a fresh state.
_AGAIN_BEFORE: Final = (40, 64)
"""Frames, 1.3 and 2 s, that are run again before the one that begins speech; the larger number if
the smaller does not contain the beginning."""
_AGAIN_CLEAR: Final = 20
"""Frames of the smaller range that must precede a beginning to confirm it."""
_AGAIN_DOUBT: Final = 0.15
"""If the frames just before a beginning were less likely than this, it needs no second run."""
_AGAIN_AFTER: Final = 16
"""Frames, 0.51 s, run again after the beginning, until the model's own state has adapted."""
_AGAIN_PAUSE: Final = 31
"""Frames, 1 s: a shorter pause does not degrade the state."""
_AGAIN_BLIPS: Final = 3
"""Likely frames in such a pause that do not end it."""
_SETTLING: Final = 8
"""Frames, 0.26 s, in which a fresh state may mistake music for speech: if speech begins within
them, the result is discarded."""

Frames = npt.NDArray[np.float32]


class Voice:
    """The loaded model. Detectors can share it if they take turns.

    Raises:
        MemoryError: There is not enough memory for it.
    """

    def __init__(self) -> None:
        # Not at the top: the router itself, which never uses the model, would hold it in memory.
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as failures
        except (ImportError, SystemError) as error:
            # The interpreter's error if memory is exhausted during an import.
            raise MemoryError("there is no room to map its libraries") from error
        # The library has no specific out-of-memory error; its input is always well formed.
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
        """Return each frame's probability of speech, and the state for the next frames.

        Raises:
            MemoryError: There is not enough memory to compute it.
        """
        inputs = {"input": frames, "h": state[0], "c": state[1]}
        try:
            probabilities, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
        except self._failures as error:
            raise MemoryError(str(error)) from error
        return np.asarray(probabilities, np.float32).reshape(-1), (hidden, cell)


class VoiceDetector:
    """Detects speech in one audio; feed it all samples in order, then `flush` it.

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
        # The previous frame, and the similarities and spectra up to it.
        self._last = np.zeros((1, _FRAME), np.float32)
        self._spectra = np.zeros((_HELD_LAG, 253), np.float32)
        self._held = np.zeros(_HELD_FRAMES - 1, np.bool_)
        # Data that may be run again: frames, probabilities, and which of those stay at zero.
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
        """Return the remaining speech after the audio has ended."""
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
        """Take the next step, which determines the gain of the previous one."""
        self._steps.append((step, _level(step)))
        if len(self._steps) < 2:
            return []
        (before, level), (_, next_level) = self._steps
        del self._steps[0]
        self._ready.append(self._levelled(before, level, next_level))
        return self._run() if len(self._ready) * _STEP >= _BLOCK else []

    def _levelled(self, step: Frames, level: float, next_level: float) -> Frames:
        """Return a step at the target level, without a discontinuity at its ends."""
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
        """Return the speech that the first pending frames decide, and drop these frames."""
        found = self._finder.feed(self._likely[:count].tolist())
        self._recent = self._recent[count:].copy()
        self._likely = self._likely[count:]
        self._silenced = self._silenced[count:]
        self._heard_again = max(0, self._heard_again - count)
        return _in_samples(found)

    def _hear_again(self, fresh: int) -> None:
        """Run the frames around each beginning of speech in the last frames again."""
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
                    # This may add speech, but never removes any.
                    known = likely[first + begin : past]
                    np.maximum(known, again[begin:], out=known)
                    break

    def _heard_fresh(self, first: int, past: int) -> Frames:
        """Return recent frames' probabilities from a model with a fresh state."""
        frames = _with_heads(np.zeros(_CONTEXT, np.float32), self._recent[first:past])
        likely, _ = self._voice.run(frames, _fresh_state())
        return np.where(self._silenced[first:past], np.float32(0), likely)

    def _is_held(self, frames: Frames) -> npt.NDArray[np.bool_]:
        """Return for each frame whether it is part of a sustained tone."""
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
    """Return frames in the model's layout, each preceded by the end of the previous one."""
    heads = np.concatenate((context[None], frames[:-1, -_CONTEXT:]))
    return np.concatenate((heads, frames), axis=1)


def _begin_of(likely: Frames, at: int) -> int:
    """Return where the speech begins that contains a frame; this may be the frame itself."""
    begin = at
    for frame in range(at - 1, -1, -1):
        if likely[frame] >= OFF:
            begin = frame
        elif begin - frame >= _SHORTEST_PAUSE:
            break
    return begin


def _level(step: Frames) -> float:
    """Return the RMS of a step's loud frames; a constant offset is ignored."""
    power = np.sort(step.var(axis=1))
    return float(np.sqrt(power[-min(_LOUDEST, len(power))]))


def _gain(level: float) -> float:
    return min(max(_WANTED_RMS / max(level, 1e-6), _MIN_GAIN), _MAX_GAIN)


def _in_samples(spans: list[tuple[int, int]]) -> list[Samples]:
    return [(a * _FRAME, b * _FRAME) for a, b in spans]
