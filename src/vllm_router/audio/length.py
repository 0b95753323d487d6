"""Two kinds of duration that must not be confused: stated by a header, and measured.

A header's duration is only good for queueing. The durations that a client gets, that quotas and
records use, and that decide how an audio is transcribed have been measured: counted while decoding,
reported by the engine that decoded it, or counted from a plain WAV's bytes. A `LengthHint` is not a
number, and functions that need a measured duration take `MeasuredSeconds`, so that mypy
distinguishes the two.
"""

from dataclasses import dataclass
from typing import NewType

MeasuredSeconds = NewType("MeasuredSeconds", float)
"""Seconds of audio that the router or an engine has decoded, or that a plain WAV holds."""


@dataclass(frozen=True, slots=True)
class LengthHint:
    """An audio's probable duration.

    Attributes:
        seconds: As stated by its container, or estimated from its size.
        doubt: Why it is unreliable, as part of a sentence; None if the container is consistent with
            itself and with the file's size.
    """

    seconds: float
    doubt: str | None = None
