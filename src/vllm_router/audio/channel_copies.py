"""Removes copies between channels: a mono call saved as stereo, crosstalk on a line.

Promises: outputs as many samples as it was fed, in order. Audio that one channel copies from
another, at any level and polarity, is silenced in the quieter channel, or in the later one if they
are equally loud. So a recording with the same audio on both sides is transcribed once, and a voice
that leaks into the other side is transcribed on its own side only. Copies are detected in steps of
a quarter of a second, because calls may begin with an announcement on both sides.

Bounds: holds one step. Refuses to know: speech. An echo, which is delayed and filtered, is not a
copy.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from vllm_router.audio.levels import RATE_HZ
from vllm_router.audio.wav import Buffer

STEP: Final = RATE_HZ // 4
_STEP_BYTES: Final = 2 * STEP
# Residue of a copy after the original is subtracted, as a share of its power. Codecs with joint
# stereo leave less than a thousandth of speech; people who say the same thing at the same time
# differ by more than half.
_COPY_SHARE: Final = 0.02
# Just after a copy, a larger residue still counts as one: codec noise masks soft sounds.
_STILL_COPY_SHARE: Final = 0.15
# Power in 16-bit units: rounding noise, which is not a copy of anything.
_NOISE_POWER: Final = 2.0
# The original is the channel that is louder by 6 dB; if neither is, the first.
_LOUDER: Final = 4.0

_Steps = npt.NDArray[np.float32]


class CopyFilter:
    """Silences copies in the channels of one audio; feed it all samples, then `flush` it.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        self._pending = [bytearray() for _ in range(channels)]
        # The pairs that were copies in the last step.
        self._were = np.zeros((channels, channels), np.bool_)

    def __repr__(self) -> str:
        return f"<CopyFilter {len(self._pending)} channels>"

    def feed(self, blocks: list[Buffer]) -> list[bytes]:
        """Take the next 16-bit samples of each channel; return those that are decided.

        Args:
            blocks: One per channel, of any lengths.
        """
        for pending, block in zip(self._pending, blocks, strict=True):
            pending += block
        steps = min(map(len, self._pending)) // _STEP_BYTES
        return self._taken(steps * _STEP_BYTES)

    def flush(self) -> list[bytes]:
        """Return the rest after the audio has ended; shorter channels are padded with silence."""
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
        """Return the channels that have no audio of their own in this step."""
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
