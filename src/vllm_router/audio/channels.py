"""Selects which channels of an audio are transcribed, and limits their number."""

from enum import StrEnum
from typing import Final

MAX_CHANNELS: Final = 8
"""Channels that are transcribed separately: 7.1 is the widest layout in common use, and each costs
a decoder and a voice activity detector."""


class Channels(StrEnum):
    """The channels of an audio that are transcribed."""

    MIX = "mix"
    LEFT = "left"
    RIGHT = "right"
    EACH = "each"
