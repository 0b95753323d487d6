"""Two kinds of length that must not be mistaken for each other: told by a header, and measured.

A header's length is good for queueing and nothing else. What a client is shown, what a key is
charged, what is recorded and what decides how an audio is transcribed has been measured: counted
while decoding, told by the engine that decoded it, or counted from a plain WAV's bytes. A
`LengthHint` is no number, and functions that need the truth take `MeasuredSeconds`, so that mypy
tells the two apart.
"""

from dataclasses import dataclass
from typing import NewType

MeasuredSeconds = NewType("MeasuredSeconds", float)
"""Seconds of audio that were decoded, by the router or by an engine, or that a plain WAV holds."""


@dataclass(frozen=True, slots=True)
class LengthHint:
    """How long an audio probably is.

    Attributes:
        seconds: As its container tells, or estimated from its size.
        doubt: Why that may be wrong, as part of a sentence; None: the container agrees with itself
            and with the file's size.
    """

    seconds: float
    doubt: str | None = None
