import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.audio.channel_copies import STEP, CopyFilter

RNG = np.random.default_rng(3)


def voice(seconds, loudness=3000.0, seed=0):
    """Return noise in syllables: as unlike another one's as two voices are."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    envelope = np.abs(np.sin(np.arange(count) * (2 + seed) / 4000)) + 0.05
    return rng.normal(0, loudness, count) * envelope


def filtered(*channels, cuts=()):
    data = [np.clip(c, -32768, 32767).astype("<i2").tobytes() for c in channels]
    copies = CopyFilter(len(data))
    out = [b""] * len(data)
    bounds = [0, *sorted(2 * cut for cut in cuts), max(map(len, data))]
    for begin, end in itertools.pairwise(bounds):
        for at, block in enumerate(copies.feed([d[begin:end] for d in data])):
            out[at] += block
    out = [a + b for a, b in zip(out, copies.flush(), strict=True)]
    return [np.frombuffer(o, "<i2").astype(float) for o in out]


def power(samples):
    return float((samples**2).mean())


@pytest.mark.parametrize("gain", [1.0, 0.8, 0.05, -1.0, -0.3, 3.0])
def test_a_copy_is_silenced_whatever_its_level_and_polarity(gain):
    one = voice(3.0)
    first, second = filtered(one, one * gain)
    kept, copy = (second, first) if gain == 3.0 else (first, second)
    assert power(copy) == 0
    assert power(kept) > 0


def test_two_voices_stay():
    one, two = voice(3.0), voice(3.0, 300, seed=1)
    first, second = filtered(one, two)
    assert np.array_equal(first, one.astype("<i2").astype(float))
    assert np.array_equal(second, two.astype("<i2").astype(float))


def test_a_voice_that_leaks_is_kept_on_its_side():
    one, two = voice(4.0), voice(4.0, seed=1)
    one[32_000:], two[:32_000] = 0, 0
    first, second = filtered(one + 0.1 * two, two + 0.1 * one)
    assert power(second[:32_000]) == 0
    assert power(first[32_000:]) == 0
    assert power(first[:32_000]) > 1e5
    assert power(second[32_000:]) > 1e5


def test_somebody_who_speaks_over_a_leak_is_kept():
    one, two = voice(4.0), voice(4.0, 1000, seed=1)
    _, second = filtered(one, two + 0.1 * one)
    assert power(second) > 1e5


def test_a_copy_with_a_codecs_noise_is_one():
    one = voice(3.0)
    _, second = filtered(one, one + RNG.normal(0, 100, len(one)))
    assert power(second) == 0


def test_an_announcement_on_both_sides_is_heard_once_and_what_follows_twice():
    both, one, two = voice(2.0), voice(2.0, seed=1), voice(2.0, seed=2)
    first, second = filtered(np.append(both, one), np.append(both, two))
    assert power(second[:32_000]) == 0
    assert power(second[32_000:]) > 1e5
    assert power(first[:32_000]) > 1e5


def test_of_three_alike_the_first_is_kept():
    one, other = voice(2.0), voice(2.0, seed=1)
    out = filtered(one, other, one, one)
    assert [power(channel) > 0 for channel in out] == [True, True, False, False]


def test_silence_and_one_channel_pass():
    assert [power(c) for c in filtered(np.zeros(9000), np.zeros(9000))] == [0, 0]
    (only,) = filtered(voice(1.0))
    assert power(only) > 0


@given(
    st.lists(st.integers(0, 3 * STEP), min_size=1, max_size=3),
    st.sets(st.integers(0, 3 * STEP), max_size=4),
)
@settings(max_examples=50)
def test_as_many_samples_come_out_wherever_they_are_cut(lengths, cuts):
    channels = [voice(length / 16_000, seed=at) for at, length in enumerate(lengths)]
    cuts = {cut for cut in cuts if cut < max(lengths)}
    out = filtered(*channels, cuts=cuts)
    assert [len(channel) for channel in out] == [max(lengths)] * len(lengths)
    for one, other in zip(out, filtered(*channels), strict=True):
        assert np.array_equal(one, other)


def test_its_repr_says_how_many():
    assert repr(CopyFilter(2)) == "<CopyFilter 2 channels>"
