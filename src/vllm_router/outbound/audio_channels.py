"""One channel of decoded sound, for a worker process.

Promises: any sample format and layout; a moment with fewer channels than others, as in broadcasts
that change between mono and stereo, has its last channel in the place of those that are missing.
Refuses to know: files and what channels mean.
"""

from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

# What PyAV makes frames of; anything else is converted first.
_FORMATS: Final = frozenset({"u8", "s16", "s32", "flt", "dbl"})
_USUAL: Final = "flt"


def one_channel(frame: Any, channel: int) -> Any:
    """Return a mono frame of one channel's samples.

    Args:
        frame: As decoded, an `av.AudioFrame`.
        channel: From 0, in the order of the file.
    """
    count = frame.layout.nb_channels
    if count < 2:
        return frame
    kind = frame.format.packed.name
    if kind not in _FORMATS:
        kind = _USUAL
        resampler = av.AudioResampler(kind, frame.layout, frame.sample_rate)
        # At one rate nothing is held back.
        (frame,) = resampler.resample(frame)
    samples = frame.to_ndarray()
    at = min(channel, count - 1)
    own = samples[at] if frame.format.is_planar else samples.reshape(-1, count)[:, at]
    mono = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(own.reshape(1, -1)), format=kind, layout="mono"
    )
    mono.sample_rate = frame.sample_rate
    mono.pts = frame.pts
    if frame.time_base is not None:
        mono.time_base = frame.time_base
    return mono


def one_of_interleaved(samples: npt.NDArray[Any], count: int, channel: int) -> npt.NDArray[Any]:
    """Return one channel of interleaved samples.

    Args:
        samples: All channels' in turns.
        count: How many channels there are.
        channel: From 0; the last one if there are fewer.
    """
    return np.ascontiguousarray(samples.reshape(-1, count)[:, min(channel, count - 1)])
