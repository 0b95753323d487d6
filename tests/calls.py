"""Calls with a speaker per channel, whose sentences are tones, and an engine that knows them.

A tone stands for a sentence by its frequency, so that what is said where can be told from any piece
of a call, whatever was cut out of it.
"""

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tests.requests.parrots import Heard, Reply

RATE_HZ = 16_000
_FIRST_HZ, _STEP_HZ = 300, 40
_FRAME = 1600

Sound = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Turn:
    """One sentence of a call.

    Attributes:
        channel: Of the speaker.
        start_s: When it begins.
        number: Which sentence, 0 to 60.
        length_s: How long it lasts.
    """

    channel: int
    start_s: float
    number: int
    length_s: float = 2.0


def sentence(number: int) -> str:
    """Return a sentence that is about as long as a tone of two seconds."""
    tens, ones = divmod(number, 10)
    names = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return f"This is sentence {names[tens]} {names[ones]}."


def call(turns: Sequence[Turn], length_s: float, channels: int = 2) -> Sound:
    """Return the samples of a call, one column for each channel."""
    sound = np.zeros((round(length_s * RATE_HZ), channels), np.int16)
    for turn in turns:
        begin = round(turn.start_s * RATE_HZ)
        at = np.arange(round(turn.length_s * RATE_HZ)) / RATE_HZ
        tone = 8000 * np.sin(2 * np.pi * (_FIRST_HZ + _STEP_HZ * turn.number) * at)
        sound[begin : begin + len(at), turn.channel] = tone.astype(np.int16)
    return sound


def wav(sound: Sound, rate_hz: int = RATE_HZ) -> bytes:
    """Return samples as a WAV file of as many channels as there are columns."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.ascontiguousarray(sound, "<i2").tobytes())
    return out.getvalue()


def numbers_in(audio: bytes) -> list[int]:
    """Return which sentences a mono WAV holds, in order."""
    with wave.open(io.BytesIO(audio)) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, RATE_HZ)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    found: list[int] = []
    for at in range(0, len(samples) - _FRAME, _FRAME):
        frame = samples[at : at + _FRAME]
        if frame.std() < 1000:
            continue
        hz = np.argmax(np.abs(np.fft.rfft(frame))) * RATE_HZ / _FRAME
        number = round((hz - _FIRST_HZ) / _STEP_HZ)
        if not found or found[-1] != number:
            found.append(number)
    return found


async def listens(heard: Heard) -> Reply:
    """Answer with the sentences of the tones, as an engine asked for json does."""
    text = " ".join(map(sentence, numbers_in(heard.audio)))
    return 200, {"text": f" {text}", "language": "en"}
