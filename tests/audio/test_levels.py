"""Levels and what they say; that cuts fall into pauses is tested in test_split."""

import itertools
import json
import random
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.audio.levels import FRAME, RATE_HZ, LevelDetector, Samples, frame_levels

SAMPLES = Path(__file__).parents[2] / "speech_model" / "samples"
Signal = npt.NDArray[np.float64]


def noise(seconds: float, rms: float, seed: int = 0) -> Signal:
    return np.random.default_rng(seed).normal(0, rms, round(seconds * RATE_HZ))


def pcm(signal: Signal) -> bytes:
    return np.clip(np.rint(signal), -32768, 32767).astype("<i2").tobytes()


def recording(name: str) -> Signal:
    with wave.open(str(SAMPLES / name)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)


def speech(data: bytes, step: int = 1 << 20) -> list[Samples]:
    detector = LevelDetector()
    found = [s for at in range(0, len(data), step) for s in detector.feed(data[at : at + step])]
    assert detector.known <= len(data) // 2
    return found + detector.flush()


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(90 * RATE_HZ),
        noise(90, 1),
        noise(90, 12),
        noise(90, 100),
        noise(90, 400),
        noise(90, 12) + 2000,
        noise(90, 12) + 300 * np.sin(2 * np.pi * 50 * np.arange(90 * RATE_HZ) / RATE_HZ),
        np.concatenate([np.zeros(10 * RATE_HZ), noise(20, 12)] * 3),
        noise(90, 12) + np.where(np.arange(90 * RATE_HZ) % RATE_HZ < 16, noise(90, 8000), 0),
    ],
    ids=["zeros", "dither", "faint", "hiss", "loud hiss", "offset", "hum", "mixed", "clicks"],
)
def test_steady_noise_is_no_speech(sound: Signal) -> None:
    assert speech(pcm(sound)) == []


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("hiss", [0.0, 12.0])
def test_quiet_speech_is_speech(gain: float, hiss: float) -> None:
    talk = recording("15.wav")
    sound = talk * gain + noise(len(talk) / RATE_HZ, hiss)[: len(talk)]
    assert sum(b - a for a, b in speech(pcm(sound))) > 4 * RATE_HZ


def test_one_quiet_word_in_a_minute_of_noise_is_found() -> None:
    sound = noise(90, 12)
    word = recording("00.wav")[3680:11_200] * 0.05
    sound[50 * RATE_HZ : 50 * RATE_HZ + len(word)] += word
    ((begin, _),) = speech(pcm(sound))
    assert begin / RATE_HZ == pytest.approx(50, abs=0.2)


def test_phrases_begin_where_sentences_do() -> None:
    rng = random.Random(7)
    index = json.loads((SAMPLES / "index.json").read_text())
    parts: list[Signal] = []
    sentences: list[tuple[float, float]] = []
    at = 0.0
    while at < 200:
        entry = rng.choice(index)
        parts += [recording(entry["file"]), noise(rng.uniform(0.2, 0.6), 12, 7)]
        sentences += [(at + s["start"], at + s["end"]) for s in entry["segments"]]
        at += sum(len(part) for part in parts[-2:]) / RATE_HZ
    found = [(a / RATE_HZ, b / RATE_HZ) for a, b in speech(pcm(np.concatenate(parts)))]
    for begin, end in sentences:
        # Where one window ends a phrase may end as well.
        assert min(abs(begin - a) for a, _ in found) < 0.15
        assert min(abs(end - b) for _, b in found) < 0.3


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 20), st.sampled_from([0, 12, 3000]))),
    st.sampled_from([2, 320, 31_998, 1 << 20]),
)
def test_spans_do_not_depend_on_how_the_audio_came(
    parts: list[tuple[float, int]], step: int
) -> None:
    data = pcm(np.concatenate([np.zeros(0), *(noise(s, rms) for s, rms in parts)]))
    step = max(step, len(data) // 5000 * 2)
    found = speech(data, step)
    assert found == speech(data)
    assert all(a < b for a, b in found)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))


def test_levels_are_decibels_over_one_unit() -> None:
    loud = np.tile([1000, -1000], FRAME // 2).astype("<i2").tobytes()
    assert frame_levels(loud + bytes(2 * FRAME)).tolist() == pytest.approx([60, 0], abs=0.01)


def test_a_detector_tells_where_it_is() -> None:
    detector = LevelDetector()
    detector.feed(pcm(noise(40, 12)))
    assert repr(detector) == "<LevelDetector at 30.00 s>"
