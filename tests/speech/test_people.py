import random
import wave
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from tests.speech.people import (
    RATE_HZ,
    SHORT_PAUSES_S,
    Pause,
    clips,
    joined_clips,
    no_speech,
    pause,
    stretches_of_sound,
)
from tests.speech.recordings import Recording

LONG_PAUSES: tuple[Pause, ...] = ("noise", "music", "phone")


def samples(recording: Recording) -> np.ndarray:
    with wave.open(BytesIO(recording.audio)) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2") / 32768


@pytest.mark.parametrize("kind", LONG_PAUSES)
def test_a_pause_is_loud_enough_to_be_taken_for_something(kind: Pause) -> None:
    recording = no_speech(kind, 10.0, seed=3)
    assert recording.duration_s == 10.0
    assert recording.sentences == ()
    assert 0.01 < float(np.std(samples(recording))) < 0.1


def test_silence_is_digital() -> None:
    assert not samples(no_speech("silence", 2.0)).any()


def test_sound_between_pauses_is_found() -> None:
    noise = np.random.default_rng(1)
    tone = np.sin(np.arange(RATE_HZ) / 5).astype(np.float32) / 4
    quiet = pause("noise", 1.0, random.Random(1), noise) / 300
    found = stretches_of_sound(np.concatenate([quiet, tone, quiet, quiet, tone, quiet]))
    assert np.allclose(found, [(1.0, 2.0), (4.0, 5.0)], atol=0.02)


def test_a_joined_recording_has_each_clip_where_its_truth_says() -> None:
    joined = joined_clips(4, 8, ("silence", "noise"))
    assert joined.duration_s == pytest.approx(len(samples(joined)) / RATE_HZ)
    assert len(joined.sentences) == 8
    by_text = {clip.text: clip for clip in clips()}
    for sentence in joined.sentences:
        clip = by_text[sentence.text]
        start = round((sentence.start_s - clip.stretches[0][0]) * RATE_HZ)
        heard = samples(joined)[start : start + len(clip.samples)]
        assert np.abs(heard - clip.samples).max() < 0.001
        times = [at for stretch in sentence.stretches for at in stretch]
        assert times == sorted(times)
        assert (times[0], times[-1]) == (sentence.start_s, sentence.end_s)
    for before, after in pairwise(joined.sentences):
        assert after.start_s - before.end_s > min(SHORT_PAUSES_S)


def test_the_same_seed_gives_the_same_recording() -> None:
    assert joined_clips(4, 3, LONG_PAUSES) == joined_clips(4, 3, LONG_PAUSES)
    assert joined_clips(5, 3).audio != joined_clips(4, 3).audio


def test_two_languages_come_one_after_the_other() -> None:
    joined = joined_clips(1, 4, languages=("fr", "ru"))
    french, russian = clips("fr")[0].text, clips("ru")[0].text
    assert [sentence.text for sentence in joined.sentences] == [french] * 2 + [russian] * 2
