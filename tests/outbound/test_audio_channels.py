from fractions import Fraction

import av
import numpy as np
import pytest

from vllm_router.outbound.audio_channels import one_channel, one_of_interleaved

DTYPES = {"u8": "u1", "s16": "<i2", "s32": "<i4", "flt": "<f4", "dbl": "<f8"}


def frame(kind, layout, channels):
    """Return a frame whose channels hold 1, 2, and so on."""
    is_planar = kind.endswith("p")
    dtype = DTYPES[kind.removesuffix("p")]
    planes = np.arange(1, channels + 1, dtype=dtype)[:, None].repeat(50, axis=1)
    samples = planes if is_planar else np.ascontiguousarray(planes.T).reshape(1, -1)
    out = av.AudioFrame.from_ndarray(samples, format=kind, layout=layout)
    out.sample_rate = 8000
    out.pts = 7
    return out


@pytest.mark.parametrize("kind", [*DTYPES, *(f"{kind}p" for kind in DTYPES)])
@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6)])
def test_a_channel_is_taken_out_of_any_format(kind, layout, channels):
    whole = frame(kind, layout, channels)
    for channel in range(channels):
        own = one_channel(whole, channel)
        assert (own.layout.name, own.sample_rate, own.samples, own.pts) == ("mono", 8000, 50, 7)
        assert np.unique(own.to_ndarray()).tolist() == [channel + 1]


def test_a_format_that_numpy_is_not_given_is_converted_first():
    whole = av.AudioFrame(format="s64", layout="stereo", samples=50)
    whole.planes[0].update(np.tile(np.array([1, 2], "<i8") << 61, 50).tobytes())
    whole.sample_rate, whole.pts, whole.time_base = 8000, 7, Fraction(1, 8000)
    for channel in range(2):
        own = one_channel(whole, channel)
        assert (own.samples, own.pts, own.time_base) == (50, 7, Fraction(1, 8000))
        assert np.unique(own.to_ndarray()).tolist() == [(channel + 1) / 4]


def test_the_last_channel_stands_for_those_that_are_missing():
    assert np.unique(one_channel(frame("s16", "stereo", 2), 5).to_ndarray()).tolist() == [2]
    mono = frame("s16", "mono", 1)
    assert one_channel(mono, 1) is mono


def test_interleaved_samples():
    samples = np.array([1, 2, 3, 1, 2, 3])
    assert one_of_interleaved(samples, 3, 1).tolist() == [2, 2]
    assert one_of_interleaved(samples, 3, 9).tolist() == [3, 3]
