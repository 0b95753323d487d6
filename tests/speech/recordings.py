"""The speech model's sample recordings, and long recordings joined from them.

Promises the true words and the true start and end of each sentence. A joined recording is the same
for the same seed. Its pauses are filled with the same faint noise the samples have under their
speech: digital silence around speech makes a small model invent words.
"""

import json
import random
import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[2] / "speech_model" / "samples"
RATE_HZ = 16_000
# The standard deviation of the samples' own background, in steps of 16-bit PCM.
NOISE_FLOOR = 12.0


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


def joined(
    duration_s: float,
    seed: int,
    pause_s: Callable[[random.Random], float] = lambda rng: rng.uniform(0.2, 1.2),
) -> Recording:
    """Join samples in a random order, with pauses between them, until a length is reached.

    Args:
        duration_s: Length in seconds: noise fills what is left after the last whole sample.
        seed: Chooses the order, the pauses and the noise.
        pause_s: Draws the seconds between one sample's end and the next one's start. The samples
            begin and end with 0.1 to 1 s without speech, so pauses between sentences are longer.
    """
    order = random.Random(seed)
    noise = np.random.default_rng(seed)
    available = samples()
    total = round(duration_s * RATE_HZ)
    pieces: list[NDArray[np.int16]] = []
    sentences: list[Sentence] = []
    at = 0
    while True:
        sample = order.choice(available)
        gap = round(pause_s(order) * RATE_HZ)
        pcm = _pcm(sample.audio)
        if at + gap + len(pcm) > total:
            break
        pieces += [_background(noise, gap), pcm]
        shift_s = (at + gap) / RATE_HZ
        sentences += [
            Sentence(s.start_s + shift_s, s.end_s + shift_s, s.text) for s in sample.sentences
        ]
        at += gap + len(pcm)
    pieces.append(_background(noise, total - at))
    return Recording(
        name=f"joined-{seed}.wav",
        audio=wav(np.concatenate(pieces)),
        duration_s=total / RATE_HZ,
        sentences=tuple(sentences),
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


def _background(noise: np.random.Generator, length: int) -> NDArray[np.int16]:
    return noise.normal(0, NOISE_FLOOR, length).round().astype("<i2")


def wav(pcm: NDArray[np.int16]) -> bytes:
    """Return a mono 16 kHz WAV file of 16-bit samples."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(pcm.astype("<i2").tobytes())
    return buffer.getvalue()
