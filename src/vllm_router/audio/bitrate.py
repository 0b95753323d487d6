"""Seconds guessed from bytes, for uploads whose container does not tell.

Promises: a usable guess from the first request on, which nears the truth as uploads of a kind are
seen; memory bounded by the number of kinds. The caller reports what it learns of finished work.
"""

import math
from typing import Final

PRIOR_BIT_RATE: Final = 64_000
"""Bits per second of speech as phones and browsers record it: the middle of 24 to 128 kbit/s."""
PRIOR_WEIGHT_S: Final = 30.0
"""The prior counts as much as this many seconds of real audio."""
_FORGET: Final = 0.98
# Kinds come from `container_kind`, which has ten; a caller's mistake must not grow without end.
_MAX_KINDS: Final = 64


class BitrateBook:
    """The mean bit rate of each kind of upload, recent ones counting most.

    A kind is whatever `audio.duration.container_kind` names.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        rates = {kind: round(8 * size / s) for kind, (size, s) in self._seen.items()}
        return f"<BitrateBook {rates}>"

    def observe(self, kind: str, size_bytes: int, seconds: float) -> None:
        """Take note of an upload whose length is known; lengths of zero teach nothing."""
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
        """Return the likely length, in seconds, of an upload of `size_bytes`."""
        size, total_s = self._seen.get(kind, (PRIOR_BIT_RATE / 8, 1.0))
        return size_bytes * total_s / size
