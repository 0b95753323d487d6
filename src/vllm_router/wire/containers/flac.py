"""FLAC: the stream's own count of samples (RFC 9639, section 8.2)."""

from typing import Final

MAGIC: Final = b"fLaC"
_STREAMINFO_BYTES: Final = 34


def flac_total(head: bytes, at: int) -> tuple[int, int] | None:
    """Return (samples, rate_hz) of the stream that starts at `at`; samples 0 means not said."""
    info = head[at + 8 : at + 8 + _STREAMINFO_BYTES]
    if head[at : at + 4] != MAGIC or head[at + 4] & 0x7F != 0 or len(info) < _STREAMINFO_BYTES:
        return None
    packed = int.from_bytes(info[10:18], "big")
    rate_hz = packed >> 44
    return (packed & 0xF_FFFF_FFFF, rate_hz) if rate_hz else None


def flac_seconds(head: bytes, at: int) -> float | None:
    """Return the length that STREAMINFO states; None if the writer could not seek back."""
    total = flac_total(head, at)
    return total[0] / total[1] if total and total[0] else None
