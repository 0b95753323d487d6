"""Channels that repeat what another channel has: a mono call saved as stereo, crosstalk on a line.

Promises: as many samples come out as went in, in order; what one channel copies from another, at
whatever level and polarity, is silence in the channel where it is quieter, or in the later one. So
a recording with the same sound on both sides is transcribed once, and a voice that leaks into the
other side is transcribed on its own. Copies are looked for in steps of a quarter of a second,
because calls begin with an announcement on both sides.

Bounds: holds a step. Refuses to know: speech; an echo, which is delayed and coloured, is no copy.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from vllm_router.audio.levels import RATE_HZ
from vllm_router.audio.wav import Buffer

STEP: Final = RATE_HZ // 4
_STEP_BYTES: Final = 2 * STEP
# What is left of a copy when the original is taken off, as a share of its power. Codecs that code
# two sides at a time leave less than a thousandth of speech; people who say the same thing at the
# same time differ by more than half.
_COPY_SHARE: Final = 0.02
# A copy that was one a moment ago is believed sooner: soft sounds drown in the noise of a codec.
_STILL_COPY_SHARE: Final = 0.15
# Power, in units of 16 bits: the noise of rounding, which is no copy of anything.
_NOISE_POWER: Final = 2.0
# The original is the louder one by 6 dB; nearer than that, the first.
_LOUDER: Final = 4.0

_Steps = npt.NDArray[np.float32]


class CopyFilter:
    """Silences copies in the channels of one audio; feed it all samples, then `flush` it.

    Args:
        channels: How many there are.
    """

    def __init__(self, channels: int) -> None:
        self._pending = [bytearray() for _ in range(channels)]
        # Which pairs were copies in the last step.
        self._were = np.zeros((channels, channels), np.bool_)

    def __repr__(self) -> str:
        return f"<CopyFilter {len(self._pending)} channels>"

    def feed(self, blocks: list[Buffer]) -> list[bytes]:
        """Take the next samples of each channel, 16 bits; return those that are decided.

        Args:
            blocks: One for each channel, of any lengths.
        """
        for pending, block in zip(self._pending, blocks, strict=True):
            pending += block
        steps = min(map(len, self._pending)) // _STEP_BYTES
        return self._taken(steps * _STEP_BYTES)

    def flush(self) -> list[bytes]:
        """Return the rest, when the audio has ended; a shorter channel is filled with silence."""
        longest = max(map(len, self._pending))
        for pending in self._pending:
            pending += bytes(longest - len(pending))
        return self._taken(longest // 2 * 2)

    def _taken(self, size_bytes: int) -> list[bytes]:
        out = []
        for pending in self._pending:
            out.append(bytes(memoryview(pending)[:size_bytes]))
            del pending[:size_bytes]
        if len(out) < 2 or not size_bytes:
            return out
        channels = [bytearray(data) for data in out]
        for at in range(0, size_bytes, _STEP_BYTES):
            end = min(at + _STEP_BYTES, size_bytes)
            step = np.stack([np.frombuffer(data[at:end], "<i2") for data in out])
            for channel in self._copies(step.astype(np.float32)):
                channels[channel][at:end] = bytes(end - at)
        return [bytes(data) for data in channels]

    def _copies(self, step: _Steps) -> list[int]:
        """Return the channels that hold nothing of their own in this step."""
        products = (step @ step.T) / step.shape[1]
        power = products.diagonal()
        found: list[int] = []
        are = np.zeros_like(self._were)
        for second in range(1, len(step)):
            for first in range(second):
                quiet, loud = second, first
                if power[second] > _LOUDER * power[first]:
                    quiet, loud = first, second
                if power[quiet] <= _NOISE_POWER or quiet in found or loud in found:
                    continue
                rest = power[quiet] - products[first, second] ** 2 / power[loud]
                share = _STILL_COPY_SHARE if self._were[first, second] else _COPY_SHARE
                if rest <= max(share * power[quiet], _NOISE_POWER):
                    are[first, second] = True
                    found.append(quiet)
        self._were = are
        return found
