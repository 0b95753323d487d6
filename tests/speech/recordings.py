"""The speech model's sample recordings, and long recordings joined from them.

Promises the true words and the true start and end of each sentence. A joined recording is the same
for the same seed. Its pauses are filled with the same faint noise the samples have under their
speech: digital silence around speech makes a small model invent words.
"""

import json
import random
import wave
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[2] / "speech_model" / "samples"
RATE_HZ = 16_000
# The standard deviation of the samples' own background, in steps of 16-bit PCM.
NOISE_FLOOR = 12.0


@dataclass(frozen=True, slots=True)
class Sentence:
    """One spoken sentence and when it begins and ends, in seconds from the recording's start."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A mono 16 kHz 16-bit WAV with what is said in it."""

    name: str
    wav: bytes
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
            wav=(SAMPLES / entry["file"]).read_bytes(),
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
        pcm = _pcm(sample.wav)
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
        wav=_wav(np.concatenate(pieces)),
        duration_s=total / RATE_HZ,
        sentences=tuple(sentences),
    )


def _pcm(wav: bytes) -> NDArray[np.int16]:
    with wave.open(BytesIO(wav)) as reader:
        assert reader.getparams()[:3] == (1, 2, RATE_HZ)
        return np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2")


def _background(noise: np.random.Generator, length: int) -> NDArray[np.int16]:
    return noise.normal(0, NOISE_FLOOR, length).round().astype("<i2")


def _wav(pcm: NDArray[np.int16]) -> bytes:
    buffer = BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(pcm.astype("<i2").tobytes())
    return buffer.getvalue()
