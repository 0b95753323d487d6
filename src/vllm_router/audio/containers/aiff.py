"""AIFF and AIFF-C: the number of sample frames in the common chunk (Apple, AIFF 1.3, 1989)."""

import math
import struct
from typing import Final

MAGIC: Final = b"FORM"
TYPES: Final = (b"AIFF", b"AIFC")
_CHUNK: Final = struct.Struct(">4sI")
#: Channels, sample frames, bits, and the rate as an 80-bit IEEE 754 number.
_COMMON: Final = struct.Struct(">hIhHQ")
_BIAS: Final = 16383 + 63
# Writers put a name or a comment before the common chunk, but not many chunks.
_MOST_CHUNKS: Final = 32
_UNCOMPRESSED: Final = (b"NONE", b"sowt", b"twos", b"in24", b"in32", b"fl32", b"FL32", b"fl64")
_CONTRADICTED: Final = "its header contradicts its samples"


def aiff_seconds(head: bytes) -> float | None:
    """Return the duration that the common chunk states; None if it is not in the file's head.

    Args:
        head: The file's first bytes.
    """
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + _CHUNK.size > len(head):
            return None
        name, size = _CHUNK.unpack_from(head, at)
        at += _CHUNK.size
        if name == b"COMM":
            return _common_seconds(head, at)
        at += size + (size & 1)
    return None


def aiff_channels(head: bytes) -> int | None:
    """Return how many channels the common chunk states; None if it is not in the file's head."""
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + _CHUNK.size > len(head):
            return None
        name, size = _CHUNK.unpack_from(head, at)
        at += _CHUNK.size
        if name == b"COMM":
            return max(0, int(_COMMON.unpack_from(head, at)[0]))
        at += size + (size & 1)
    return None


def form_bytes(head: bytes) -> int | None:
    """Return the file's size as its outermost chunk states it; None if it does not."""
    size = int.from_bytes(head[4:8], "big")
    # Writers that cannot seek back leave zero or the maximum.
    return size + 8 if 0 < size < 2**32 - 1 else None


def _common_seconds(head: bytes, at: int) -> float | None:
    if at + _COMMON.size > len(head):
        return None
    _, frames, _, exponent, mantissa = _COMMON.unpack_from(head, at)
    if not mantissa or not 0 < exponent < _BIAS:
        # No rate, below 1 Hz, negative, or more than a 64-bit mantissa holds.
        return None
    rate_hz = math.ldexp(mantissa, exponent - _BIAS)
    # A writer that could not seek back leaves no frame count.
    return frames / rate_hz if frames and rate_hz >= 1.0 else None


def aiff_doubt(head: bytes, size_bytes: int) -> str | None:
    """Return why the common chunk's duration is unreliable; None if it matches the size."""
    at = 12
    needed = 0
    for _ in range(_MOST_CHUNKS):
        if at + _CHUNK.size > len(head):
            break
        name, size = _CHUNK.unpack_from(head, at)
        at += _CHUNK.size
        if name == b"COMM":
            if head[8:12] == b"AIFC" and head[at + 18 : at + 22] not in _UNCOMPRESSED:
                return "its samples are compressed"
            channels, frames, bits, _, _ = _COMMON.unpack_from(head, at)
            needed = frames * channels * ((bits + 7) // 8)
        elif name == b"SSND":
            # The chunk's first eight bytes are an offset and a block size.
            held = min(size, size_bytes - at) - 8
            return None if needed and abs(held - needed) <= 64 else _CONTRADICTED
        at += size + (size & 1)
    return "its samples are not found"
