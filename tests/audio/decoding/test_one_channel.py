import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from vllm_router.audio.decoding.one_channel import OneChannel, one_of_interleaved

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
        own = OneChannel(channel).of(whole)
        assert (own.layout.name, own.sample_rate, own.samples, own.pts) == ("mono", 8000, 50, 7)
        assert np.unique(own.to_ndarray()).tolist() == [channel + 1]


def wide(layout, channels):
    """Return a frame of a format that numpy is not given; channels hold 1/16, 2/16, and so on."""
    whole = av.AudioFrame(format="s64", layout=layout, samples=50)
    each = np.arange(1, channels + 1, dtype="<i8") << 59
    whole.planes[0].update(np.tile(each, 50).tobytes())
    whole.sample_rate, whole.pts, whole.time_base = 8000, 7, Fraction(1, 8000)
    return whole


def test_a_format_that_numpy_is_not_given_is_converted_first():
    own = OneChannel(1)
    for layout, channels in (("stereo", 2), ("5.1", 6), ("stereo", 2)):
        whole = wide(layout, channels)
        mono = own.of(whole)
        assert (mono.samples, mono.pts, mono.time_base) == (50, 7, Fraction(1, 8000))
        assert np.unique(mono.to_ndarray()).tolist() == [2 / 16]
        assert (whole.pts, whole.time_base) == (7, Fraction(1, 8000))
    assert repr(own) == "<OneChannel 1>"


def test_the_last_channel_stands_for_those_that_are_missing():
    assert np.unique(OneChannel(5).of(frame("s16", "stereo", 2)).to_ndarray()).tolist() == [2]
    mono = frame("s16", "mono", 1)
    assert OneChannel(1).of(mono) is mono


def test_interleaved_samples():
    samples = np.array([1, 2, 3, 1, 2, 3])
    assert one_of_interleaved(samples, 3, 1).tolist() == [2, 2]
    assert one_of_interleaved(samples, 3, 9).tolist() == [3, 3]


@pytest.mark.parametrize("options", [["aac"], ["flac"], ["pcm_s16le"]])
def test_eight_channels_do_not_end_the_process(options, tmp_path):
    path = tmp_path / ("a.flac" if options == ["flac"] else "a.mov")
    source = "sine=f=440,aformat=channel_layouts=mono,asplit=8"
    joined = "".join(f"[c{at}]" for at in range(8))
    delayed = "".join(f"[s{at}]adelay={at * 50}[c{at}];" for at in range(8))
    split = "".join(f"[s{at}]" for at in range(8))
    graph = f"{source}{split};{delayed}{joined}join=inputs=8:channel_layout=7.1"
    command = ["ffmpeg", "-v", "error", "-filter_complex", graph, "-t", "1", "-c:a", *options]
    subprocess.run([*command, str(path)], check=True)
    # What fails here is no exception but a crash, and must not take the other tests along.
    code = (
        "import av, sys\n"
        "from vllm_router.audio.decoding.one_channel import OneChannel\n"
        "for channel in range(8):\n"
        "    own = OneChannel(channel)\n"
        "    with av.open(sys.argv[1]) as file:\n"
        "        frames = [own.of(frame) for frame in file.decode(audio=0)]\n"
        "    frame = frames[-1].to_ndarray()\n"
        "    print(sum(f.samples for f in frames), {f.layout.name for f in frames}, frame.any())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert len(set(lines)) == 1
    assert lines[0].endswith("{'mono'} True")
