import wave
from io import BytesIO
from itertools import pairwise

import av
import numpy as np
import pytest
from tests.speech.recordings import RATE_HZ, Recording, as_mp3, joined, samples


@pytest.fixture(scope="module")
def two_minutes() -> Recording:
    return joined(120, seed=7)


def pcm(recording: Recording) -> np.ndarray:
    with wave.open(BytesIO(recording.audio)) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2")


def test_the_samples_are_as_long_as_their_index_says() -> None:
    assert len(samples()) == 16
    for sample in samples():
        assert len(pcm(sample)) / RATE_HZ == pytest.approx(sample.duration_s, abs=0.001)


def test_a_joined_recording_has_the_asked_length(two_minutes: Recording) -> None:
    assert two_minutes.duration_s == 120
    assert len(pcm(two_minutes)) == 120 * RATE_HZ


def test_the_same_seed_gives_the_same_recording(two_minutes: Recording) -> None:
    assert joined(120, seed=7) == two_minutes
    assert joined(120, seed=8).audio != two_minutes.audio


def test_sentences_follow_each_other_and_hold_the_speech(two_minutes: Recording) -> None:
    sound = pcm(two_minutes).astype(float)

    def loudness(start_s: float, end_s: float) -> float:
        return float(sound[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)].std())

    for before, after in pairwise(two_minutes.sentences):
        assert before.end_s < after.start_s
        pause = loudness(before.end_s + 0.1, after.start_s - 0.1)
        assert 8 < pause < 60 < 10 * pause < loudness(before.start_s, before.end_s)


def test_an_mp3_is_as_long_as_what_it_was_made_from(two_minutes: Recording) -> None:
    small = as_mp3(two_minutes)
    assert small.name == "joined-7.mp3"
    with av.open(BytesIO(small.audio)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    # The format holds whole frames and begins with a delay of up to two of them.
    assert samples / RATE_HZ == pytest.approx(two_minutes.duration_s, abs=0.2)
