"""Extracts one channel of decoded audio, for a worker process.

Promises: any sample format and layout. If a frame has fewer channels than others, as in broadcasts
that change between mono and stereo, its last channel replaces the missing ones.
Refuses to know: files and the meaning of channels.
"""

from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

# The formats from which PyAV creates frames; others are converted first.
_FORMATS: Final = frozenset({"u8", "s16", "s32", "flt", "dbl"})
_USUAL: Final = "flt"
_PLANES: Final = 7
"""PyAV crashes when it copies the separate planes of a frame that has more."""


class OneChannel:
    """Extracts one channel of each frame of a stream.

    Args:
        channel: From 0, in the order of the file.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._shape: tuple[Any, ...] | None = None
        self._interleaver: Any = None

    def __repr__(self) -> str:
        return f"<OneChannel {self._channel}>"

    def of(self, frame: Any) -> Any:
        """Return a mono frame of the channel's samples.

        Args:
            frame: A decoded `av.AudioFrame`.
        """
        count = frame.layout.nb_channels
        if count < 2:
            return frame
        own = self._samples(frame, count)
        mono = av.AudioFrame.from_ndarray(own.reshape(1, -1), format=_kind(frame), layout="mono")
        mono.sample_rate = frame.sample_rate
        mono.pts = frame.pts
        if frame.time_base is not None:
            mono.time_base = frame.time_base
        return mono

    def _samples(self, frame: Any, count: int) -> npt.NDArray[Any]:
        if not frame.format.is_planar and frame.format.name in _FORMATS:
            return one_of_interleaved(frame.to_ndarray(), count, self._channel)
        if count <= _PLANES and frame.format.packed.name in _FORMATS:
            return np.ascontiguousarray(frame.to_ndarray()[min(self._channel, count - 1)])
        return one_of_interleaved(self._interleaved(frame), count, self._channel)

    def _interleaved(self, frame: Any) -> npt.NDArray[Any]:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            # At an unchanged rate it buffers nothing, so replacing it loses nothing.
            self._interleaver = av.AudioResampler(_kind(frame), frame.layout, frame.sample_rate)
            self._shape = shape
        pts, time_base = frame.pts, frame.time_base
        frame.pts = None
        found = [out.to_ndarray().reshape(-1) for out in self._interleaver.resample(frame)]
        frame.pts = pts
        if time_base is not None:
            frame.time_base = time_base
        return np.concatenate(found)


def _kind(frame: Any) -> str:
    kind = str(frame.format.packed.name)
    return kind if kind in _FORMATS else _USUAL


def one_of_interleaved(samples: npt.NDArray[Any], count: int, channel: int) -> npt.NDArray[Any]:
    """Return one channel of interleaved samples.

    Args:
        samples: Samples of all channels, interleaved.
        count: Number of channels.
        channel: From 0; the last one if there are fewer.
    """
    return np.ascontiguousarray(samples.reshape(-1, count)[:, min(channel, count - 1)])
