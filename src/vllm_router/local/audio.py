"""From an uploaded file to the input of a Whisper encoder: decode, split, log-mel.

Pure computation on bytes and arrays, for worker threads. Limits and errors are vLLM's.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vllm_router.local.errors import MAX_AUDIO_S, ApiError, audio_too_long, invalid_audio

Samples = npt.NDArray[np.float32]

RATE_HZ = 16_000
# Whisper's encoder takes 30 s.
CHUNK_S = 30
# vLLM splits at a quiet moment in the last second of a chunk, searched in windows of 0.1 s.
SEARCH_SAMPLES = RATE_HZ
QUIET_SAMPLES = RATE_HZ // 10
# PyAV before 19 opens no file whose tags are not UTF-8 unless it is told to; 19 opens each.
_ANY_TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# Whisper's feature extractor.
N_FFT = 400
HOP = 160


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """At most 30 s of audio, and where it starts in the recording."""

    start_s: float
    samples: Samples

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / RATE_HZ


def decode(data: bytes | bytearray) -> Samples:
    """Return the first audio stream of a file as 16 kHz mono, from -1 to 1.

    Raises:
        ApiError: Not audio, or longer than 600 s.
    """
    try:
        pieces = list(_frames(data))
    except (av.error.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise invalid_audio() from error
    if not pieces:
        raise ApiError(400, "No audio found in the input.")
    return np.concatenate(pieces)


def _frames(data: bytes | bytearray) -> Iterator[Samples]:
    with av.open(io.BytesIO(data), "r", **_ANY_TAGS) as container:
        if not container.streams.audio:
            raise invalid_audio()
        stream = container.streams.audio[0]
        declared_s = float((stream.duration or 0) * (stream.time_base or 0))
        if declared_s > MAX_AUDIO_S:
            raise audio_too_long(declared_s)
        # Channels are averaged afterwards: the resampler's own mix to mono is louder than that.
        # Interleaved: PyAV crashes on the separate planes of eight channels.
        resampler = av.AudioResampler(format="flt", rate=RATE_HZ)
        count = 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                count += piece.samples
                yield _to_mono(piece)
            if count > MAX_AUDIO_S * RATE_HZ:
                raise audio_too_long(count / RATE_HZ)
        for piece in resampler.resample(None):
            yield _to_mono(piece)


def _to_mono(frame: Any) -> Samples:
    samples = frame.to_ndarray().reshape(frame.samples, -1).mean(axis=1)
    return np.asarray(samples, np.float32)


def split(samples: Samples) -> list[AudioChunk]:
    """Split into chunks of at most 30 s, each at the quietest 0.1 s of its last second."""
    size = CHUNK_S * RATE_HZ
    chunks = []
    at = 0
    while len(samples) - at > size:
        end = quietest(samples, at + size - SEARCH_SAMPLES, at + size)
        chunks.append(AudioChunk(at / RATE_HZ, samples[at:end]))
        at = end
    chunks.append(AudioChunk(at / RATE_HZ, samples[at:]))
    return chunks


def quietest(samples: Samples, start: int, end: int) -> int:
    """Return the middle of the 0.1 s with the least energy between two indexes."""
    count = (end - start) // QUIET_SAMPLES
    windows = samples[start : start + count * QUIET_SAMPLES].reshape(count, QUIET_SAMPLES)
    energy = np.square(windows).sum(axis=1)
    return start + int(energy.argmin()) * QUIET_SAMPLES + QUIET_SAMPLES // 2


def mel_filters(mels: int) -> Samples:
    """Return Whisper's mel filter bank: Slaney's scale and area normalisation, 0 to 8 kHz.

    Shape: mels x (N_FFT / 2 + 1).
    """
    edges = _to_hz(np.linspace(0.0, _to_mel(RATE_HZ / 2), mels + 2))
    bins = np.fft.rfftfreq(N_FFT, 1 / RATE_HZ)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges[2:] - edges[:-2])
    return np.asarray(triangles * area[:, None], dtype=np.float32)


# Slaney's mel scale: linear to 1 kHz (200/3 Hz a mel), then 27 mels to a factor of 6.4.
_LINEAR_HZ = 200.0 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0


def _to_mel(hz: float) -> float:
    return float(_KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP)


def _to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, _LINEAR_HZ * mel, above)


def log_mel(samples: Samples, filters: Samples) -> Samples:
    """Return the log-mel spectrogram of a chunk, as Whisper's feature extractor makes it.

    The waveform is padded with zeros to 30 s before anything else.

    Args:
        samples: At most 30 s.
        filters: From `mel_filters`.

    Returns:
        Contiguous float32, mels x 3000.
    """
    padded = np.zeros(CHUNK_S * RATE_HZ, dtype=np.float32)
    padded[: len(samples)] = samples
    around = np.pad(padded, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(around, N_FFT)[::HOP][:-1]
    # A periodic Hann window: one longer, without its last sample.
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=1))).astype(np.float32)
    logged = np.log10(np.maximum(filters @ power.T, 1e-10))
    floored = np.maximum(logged, logged.max() - 8.0)
    return np.ascontiguousarray((floored + 4.0) / 4.0, dtype=np.float32)
