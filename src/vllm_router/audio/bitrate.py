"""Durations estimated from sizes, for uploads whose container does not state one.

Promises: a usable estimate from the first request on, which improves as uploads of a kind are seen;
memory bounded by the number of kinds. The caller reports the durations of finished uploads.
"""

import math
from typing import Final

PRIOR_BIT_RATE: Final = 64_000
"""Bits per second of speech recorded by phones and browsers: the middle of 24 to 128 kbit/s."""
PRIOR_WEIGHT_S: Final = 30.0
"""The prior weighs as much as this many seconds of real audio."""
_FORGET: Final = 0.98
# Kinds come from `container_kind`, which has ten; a caller's mistake must not use unbounded memory.
_MAX_KINDS: Final = 64


class BitrateBook:
    """The mean bit rate of each kind of upload; recent uploads weigh more.

    A kind is a name returned by `audio.duration.container_kind`.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        rates = {kind: round(8 * size / s) for kind, (size, s) in self._seen.items()}
        return f"<BitrateBook {rates}>"

    def observe(self, kind: str, size_bytes: int, seconds: float) -> None:
        """Add an upload of known duration; durations of zero are ignored."""
        if not 0.0 < seconds < math.inf or size_bytes <= 0:
            return
        seen = self._seen.get(kind)
        if seen is None:
            if len(self._seen) >= _MAX_KINDS:
                return
            seen = PRIOR_WEIGHT_S * PRIOR_BIT_RATE / 8, PRIOR_WEIGHT_S
        size, total_s = seen
        self._seen[kind] = _FORGET * size + size_bytes, _FORGET * total_s + seconds

    def estimate(self, kind: str, size_bytes: int) -> float:
        """Return the estimated duration, in seconds, of an upload of `size_bytes`."""
        size, total_s = self._seen.get(kind, (PRIOR_BIT_RATE / 8, 1.0))
        return size_bytes * total_s / size
