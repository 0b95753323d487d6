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
from vllm_router.audio.spans import SpanFinder
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
        self._state: tuple[Any, Any] = (
            np.zeros(_STATE_SHAPE, np.float32),
            np.zeros(_STATE_SHAPE, np.float32),
        )
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
        end = self._finder.at * _FRAME + size_samples
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
        heads = np.concatenate((self._context[None], frames[:-1, -_CONTEXT:]))
        self._context = frames[-1, -_CONTEXT:].copy()
        probabilities, self._state = self._voice.run(
            np.concatenate((heads, frames), axis=1), self._state
        )
        probabilities = np.where(self._is_held(frames), 0.0, probabilities)
        return _in_samples(self._finder.feed(probabilities.tolist()))

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


def _level(step: Frames) -> float:
    """Return the RMS of a step's loud frames; a constant offset counts zero."""
    power = np.sort(step.var(axis=1))
    return float(np.sqrt(power[-min(_LOUDEST, len(power))]))


def _gain(level: float) -> float:
    return min(max(_WANTED_RMS / max(level, 1e-6), _MIN_GAIN), _MAX_GAIN)


def _in_samples(spans: list[tuple[int, int]]) -> list[Samples]:
    return [(a * _FRAME, b * _FRAME) for a, b in spans]
