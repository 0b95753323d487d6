"""What is taken for speech: recordings at any level, and neither noise nor music."""

import itertools
import os
import time
import wave
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest

from vllm_router.audio.decoding.samples import ByteRange, read_samples
from vllm_router.audio.decoding.voice_activity import Voice, VoiceDetector
from vllm_router.audio.levels import RATE_HZ, Samples

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "speech_model" / "samples"
#: Recordings of people, in more than one language; not part of the repository.
RECORDINGS = ROOT.parent / "shared" / "real_speech" / "recordings"
Signal = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice()


def pcm(signal: Signal) -> bytes:
    return np.clip(np.rint(signal), -32768, 32767).astype("<i2").tobytes()


def noise(seconds: float, rms: float, power: float = 0.0) -> Signal:
    """Return noise: white, pink with a power of 0.5, brown with 1."""
    count = round(seconds * RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(count))
    spectrum /= np.maximum(1, np.arange(len(spectrum))) ** power
    sound = np.fft.irfft(spectrum, count)
    return sound / sound.std() * rms


def tones(seconds: float, frequencies: tuple[float, ...], rms: float) -> Signal:
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return sum((np.sin(2 * np.pi * f * at) for f in frequencies), np.zeros(len(at))) * rms


def ringing(seconds: float, rms: float) -> Signal:
    sound = tones(seconds, (400, 450), rms)
    return sound * (np.arange(len(sound)) / RATE_HZ % 6 < 2)


def chords(seconds: float, rms: float) -> Signal:
    """Return music: three notes at a time that swell and fade twice a second."""
    rng = np.random.default_rng(2)
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = np.zeros(len(at))
    for begin in range(0, len(at), 8 * RATE_HZ):
        part = at[begin : begin + 8 * RATE_HZ]
        for note in (220, 277, 330):
            pitch = note * 2 ** (rng.integers(0, 8) / 12)
            sound[begin : begin + 8 * RATE_HZ] += np.sin(2 * np.pi * pitch * part)
    return sound * (0.5 + 0.5 * np.sin(4 * np.pi * at)) * rms


def joined_up(parts: list[Samples]) -> list[Samples]:
    spans: list[Samples] = []
    for a, b in parts:
        if spans and spans[-1][1] == a:
            spans[-1] = (spans[-1][0], b)
        else:
            spans.append((a, b))
    return spans


def speech(voice: Voice, data: bytes, step: int = 1 << 19) -> list[Samples]:
    detector = VoiceDetector(voice)
    found: list[Samples] = []
    for at in range(0, len(data), step):
        found += detector.feed(data[at : at + step])
        assert detector.known <= len(data) // 2
        assert not found or found[-1][1] <= detector.known
    return joined_up(found + detector.flush())


def sample(name: str) -> Signal:
    with wave.open(str(SAMPLES / name)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)


def recording(path: Path) -> Signal:
    fd = os.open(path, os.O_RDONLY)
    try:
        data = b"".join(read_samples(ByteRange(fd, 0, path.stat().st_size), 600))
    finally:
        os.close(fd)
    return np.frombuffer(data, "<i2").astype(np.float64)


def over_the_phone(sound: Signal) -> Signal:
    """Return sound as 8 kHz and 8 bits by the mu-law make it."""
    spectrum = np.fft.rfft(sound)
    spectrum[int(len(spectrum) * 0.43) :] = 0
    narrow = np.fft.irfft(spectrum, len(sound)) / 32768
    coded = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
    coded = np.rint(coded * 127) / 127
    return np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255 * 32768


def seconds(spans: list[Samples]) -> float:
    return sum(b - a for a, b in spans) / RATE_HZ


def share_found(wanted: list[Samples], found: list[Samples], size: int) -> float:
    """Return how much of the span that was found least is in what was found."""
    is_found = np.zeros(size, np.bool_)
    for a, b in found:
        is_found[a:b] = True
    return min((float(is_found[a:b].mean()) for a, b in wanted), default=1.0)


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(120 * RATE_HZ),
        noise(120, 1),
        noise(120, 12),
        noise(120, 600),
        noise(120, 4000),
        noise(120, 30, 0.5),
        noise(120, 600, 0.5),
        noise(120, 600, 1.0),
        noise(120, 12) + 2000,
        noise(120, 8) + tones(120, (50, 100, 150), 300),
        tones(120, (350, 440), 3000),
        ringing(120, 3000),
        ringing(120, 100),
        chords(120, 1500),
        chords(120, 150),
        chords(120, 45),
    ],
    ids=[
        "zeros", "dither", "faint", "hiss", "loud hiss", "faint pink", "pink", "brown", "offset",
        "hum", "dial tone", "ringing", "quiet ringing", "music", "quiet music", "faint music",
    ],
)  # fmt: skip
def test_noise_and_music_are_no_speech(voice: Voice, sound: Signal) -> None:
    assert speech(voice, pcm(sound)) == []


@pytest.mark.parametrize("gain", [3.0, 0.3, 0.03, 0.01])
def test_speech_is_found_however_quiet(voice: Voice, gain: float) -> None:
    sound = sample("07.wav")
    sound *= 3000 / np.sqrt(np.mean(sound**2))
    wanted = speech(voice, pcm(sound))
    assert seconds(wanted) > 0.6 * len(sound) / RATE_HZ
    assert share_found(wanted, speech(voice, pcm(sound * gain)), len(sound)) > 0.5


def test_a_word_between_noises_is_found(voice: Voice) -> None:
    word = sample("00.wav")[3680:11_200] * 0.2
    sound = noise(60, 20)
    sound[: 20 * RATE_HZ] += noise(20, 2000, 0.5)
    sound[30 * RATE_HZ : 30 * RATE_HZ + len(word)] += word
    sound[45 * RATE_HZ :] += chords(15, 1500)
    ((begin, end),) = speech(voice, pcm(sound))
    assert begin / RATE_HZ == pytest.approx(30, abs=0.2)
    assert end / RATE_HZ == pytest.approx(30.5, abs=0.3)


class Sure:
    """A model that takes everything for speech, as Silero does now and then after some."""

    def run(self, frames: npt.NDArray[np.float32], state: object) -> tuple[object, object]:
        return np.ones(len(frames), np.float32), state


def test_a_held_tone_is_no_speech_whatever_the_model_says() -> None:
    sure = cast(Voice, Sure())
    assert seconds(speech(sure, pcm(sample("07.wav")))) > 0.95 * len(sample("07.wav")) / RATE_HZ
    for sound in (chords(40, 1500), chords(40, 45), tones(40, (350, 440), 3000)):
        assert seconds(speech(sure, pcm(sound))) < 12


def test_spans_do_not_depend_on_how_the_audio_came(voice: Voice) -> None:
    sound = np.concatenate([noise(3.3, 500), sample("03.wav"), noise(9, 20), sample("05.wav")])
    data = pcm(sound)
    spans = speech(voice, data, 1 << 24)
    assert spans
    for step in (1152, 64_000, 131_072):
        assert speech(voice, data, step) == spans
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    assert spans[-1][1] <= len(sound)


def test_nothing_fed_is_nothing_found(voice: Voice) -> None:
    assert speech(voice, b"") == []
    assert speech(voice, bytes(2)) == []


def test_one_model_serves_several_audios(voice: Voice) -> None:
    data = pcm(sample("02.wav"))
    one, other = VoiceDetector(voice), VoiceDetector(voice)
    found: tuple[list[Samples], list[Samples]] = ([], [])
    for at in range(0, len(data), 50_000):
        found[0].extend(one.feed(data[at : at + 50_000]))
        found[1].extend(other.feed(bytes(50_000)))
    found[0].extend(one.flush())
    found[1].extend(other.flush())
    assert joined_up(found[0]) == speech(voice, data)
    assert found[1] == []
    assert repr(voice) == "<Voice silero_vad_16k_sequence.onnx>"
    assert repr(one).startswith("<VoiceDetector ")


def test_an_hour_costs_seconds(voice: Voice) -> None:
    data = pcm(np.tile(sample("07.wav"), 12))
    began = time.process_time()
    speech(voice, data)
    hours = len(data) / 2 / RATE_HZ / 3600
    # About 7 on a quiet machine.
    assert (time.process_time() - began) / hours < 30


@pytest.mark.skipif(not RECORDINGS.exists(), reason=f"{RECORDINGS} is absent")
@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("is_phone", [False, True], ids=["", "phone"])
def test_people_are_heard_in_any_language_and_at_any_level(
    voice: Voice, gain: float, is_phone: bool
) -> None:
    for path in sorted(RECORDINGS.iterdir()):
        sound = recording(path)
        wanted = speech(voice, pcm(sound))
        assert seconds(wanted) > 0.45 * len(sound) / RATE_HZ, path.name
        heard = over_the_phone(sound) if is_phone else sound
        found = speech(voice, pcm(heard * gain))
        assert share_found(wanted, found, len(sound)) > 0.5, path.name
