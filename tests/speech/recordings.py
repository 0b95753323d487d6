"""A recording with the truth about it, and the samples of synthetic speech in the clone.

Promises the true words and the true start and end of each sentence.
"""

import json
import wave
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[2] / "speech_model" / "samples"
RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Sentence:
    """One spoken sentence and when it begins and ends, in seconds from the recording's start.

    `stretches` tell where in between there is sound, where that is known.
    """

    start_s: float
    end_s: float
    text: str
    stretches: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """An audio file with what is said in it: mono 16 kHz 16-bit WAV unless its name says else."""

    name: str
    audio: bytes
    duration_s: float
    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """All words, in order."""
        return " ".join(sentence.text for sentence in self.sentences)


def samples() -> tuple[Recording, ...]:
    """Return the sample recordings in the order of their index."""
    index = json.loads((SAMPLES / "index.json").read_text())
    return tuple(
        Recording(
            name=entry["file"],
            audio=(SAMPLES / entry["file"]).read_bytes(),
            duration_s=entry["duration_s"],
            sentences=tuple(Sentence(s["start"], s["end"], s["text"]) for s in entry["segments"]),
        )
        for entry in index
    )


def as_mp3(recording: Recording, bit_rate: int = 64_000) -> Recording:
    """Return the same recording as an MP3 file."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=RATE_HZ, bit_rate=bit_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            _pcm(recording.audio)[np.newaxis], format="s16", layout="mono"
        )
        frame.sample_rate = RATE_HZ
        # libmp3lame takes planar samples, in frames of its own size.
        resampler = av.AudioResampler("s16p", "mono", RATE_HZ, frame_size=stream.frame_size or 576)
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return replace(
        recording, name=str(Path(recording.name).with_suffix(".mp3")), audio=buffer.getvalue()
    )


def saved(recording: Recording, folder: Path) -> Path:
    """Write a recording's file into a folder, under its own name."""
    path = folder / recording.name
    path.write_bytes(recording.audio)
    return path


def _pcm(wav: bytes) -> NDArray[np.int16]:
    with wave.open(BytesIO(wav)) as reader:
        assert reader.getparams()[:3] == (1, 2, RATE_HZ)
        return np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2")


def wav(pcm: NDArray[np.int16]) -> bytes:
    """Return a mono 16 kHz WAV file of 16-bit samples."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(pcm.astype("<i2").tobytes())
    return buffer.getvalue()
