import wave
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from tests.speech.recordings import RATE_HZ, Recording, as_mp3, samples, saved


def pcm(recording: Recording) -> np.ndarray:
    with wave.open(BytesIO(recording.audio)) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2")


def test_the_samples_are_as_long_as_their_index_says() -> None:
    assert len(samples()) == 16
    for sample in samples():
        assert len(pcm(sample)) / RATE_HZ == pytest.approx(sample.duration_s, abs=0.001)


def test_sentences_follow_each_other_and_hold_the_speech() -> None:
    for sample in samples():
        sound = pcm(sample).astype(float)
        for sentence in sample.sentences:
            start, end = (round(at * RATE_HZ) for at in (sentence.start_s, sentence.end_s))
            assert sound[start:end].std() > 300
        for before, after in pairwise(sample.sentences):
            assert before.end_s < after.start_s


def test_an_mp3_is_as_long_as_what_it_was_made_from() -> None:
    sample = samples()[-1]
    small = as_mp3(sample)
    assert small.name == "15.mp3"
    with av.open(BytesIO(small.audio)) as container:
        count = sum(frame.samples for frame in container.decode(audio=0))
    # The format holds whole frames and begins with a delay of up to two of them.
    assert count / RATE_HZ == pytest.approx(sample.duration_s, abs=0.2)


def test_a_file_is_saved_under_its_own_name(tmp_path: Path) -> None:
    path = saved(samples()[0], tmp_path)
    assert path == tmp_path / "00.wav"
    assert path.read_bytes() == samples()[0].audio
