"""Consecutive frames without a file header: ADTS AAC and AMR.

Their duration is estimated from the mean size of the first frames, as in ffprobe.
"""

from typing import Final

_ADTS_RATES: Final = (
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
)  # fmt: skip
_ADTS_SAMPLES: Final = 1024
AMR_MAGIC: Final = b"#!AMR\n"
AMR_WB_MAGIC: Final = b"#!AMR-WB\n"
# Bytes of a frame by its type, including the type byte (RFC 4867, section 5.3).
_AMR_BYTES: Final = (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1)
_AMR_WB_BYTES: Final = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1)
_AMR_FRAME_S: Final = 0.02
_FRAMES_AVERAGED: Final = 96


def adts_frame_bytes(data: bytes, at: int) -> int:
    """Return the size of the ADTS frame at `at`; 0 if there is none."""
    header = data[at : at + 7]
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return 0
    if header[2] >> 2 & 15 >= len(_ADTS_RATES):
        return 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size >= 7 else 0


def adts_seconds(head: bytes, start: int, size_bytes: int) -> float | None:
    """Return the duration of an ADTS stream from `start`, by the mean size of its first frames."""
    rate_hz = _ADTS_RATES[head[start + 2] >> 2 & 15]
    at, frames = start, 0
    while frames < _FRAMES_AVERAGED and (size := adts_frame_bytes(head, at)):
        at += size
        frames += 1
    if not frames:
        return None
    return max(0, size_bytes - start) * frames * _ADTS_SAMPLES / ((at - start) * rate_hz)


def amr_seconds(head: bytes, size_bytes: int) -> float | None:
    """Return the duration of an AMR file, by the mean size of its first frames."""
    is_wide = head.startswith(AMR_WB_MAGIC)
    sizes = _AMR_WB_BYTES if is_wide else _AMR_BYTES
    start = len(AMR_WB_MAGIC if is_wide else AMR_MAGIC)
    at, frames = start, 0
    while frames < _FRAMES_AVERAGED and at < len(head):
        at += sizes[head[at] >> 3 & 15]
        frames += 1
    if not frames:
        return None
    return (size_bytes - start) * frames * _AMR_FRAME_S / (at - start)
