"""FLAC: the stream's own sample count (RFC 9639, section 8.2)."""

from typing import Final

_MAX_TRIES: Final = 64
_BLOCK_SIZES: Final = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}} | {
    n: 256 << n - 8 for n in range(8, 16)
}
_CRC_POLYNOMIAL: Final = 0x07
MAGIC: Final = b"fLaC"
_STREAMINFO_BYTES: Final = 34


def flac_total(head: bytes, at: int) -> tuple[int, int] | None:
    """Return (samples, rate_hz) of the stream that starts at `at`; 0 samples means not stated."""
    info = head[at + 8 : at + 8 + _STREAMINFO_BYTES]
    if head[at : at + 4] != MAGIC or head[at + 4] & 0x7F != 0 or len(info) < _STREAMINFO_BYTES:
        return None
    packed = int.from_bytes(info[10:18], "big")
    rate_hz = packed >> 44
    return (packed & 0xF_FFFF_FFFF, rate_hz) if rate_hz else None


def flac_seconds(head: bytes, at: int) -> float | None:
    """Return the duration that STREAMINFO states; None if the writer could not seek back."""
    total = flac_total(head, at)
    return total[0] / total[1] if total and total[0] else None


def flac_doubt(head: bytes, at: int, size_bytes: int, tail: bytes) -> str | None:
    """Return why STREAMINFO's duration is unreliable; None if it matches the last frame.

    Args:
        head: The file's first bytes.
        at: Offset of the stream in it.
        size_bytes: Size of the whole file.
        tail: The file's last bytes.
    """
    total = flac_total(head, at)
    if total is None or not total[0]:
        return "its header counts no samples"
    if head.find(MAGIC, at + 1) >= 0 or (size_bytes > len(head) and tail.find(MAGIC) >= 0):
        return "it holds several consecutive streams"
    last = _end_of_last_frame(tail, head, at)
    if last is None:
        return "its last frame is not found"
    return None if abs(total[0] - last) <= total[1] // 2 else "its header contradicts its frames"


def _end_of_last_frame(tail: bytes, head: bytes, at: int) -> int | None:
    """Return the sample at which the last detectable frame ends."""
    fixed = int.from_bytes(head[at + 8 : at + 10], "big")
    place = len(tail)
    for _ in range(_MAX_TRIES):
        place = tail.rfind(b"\xff", 0, place)
        if place < 0:
            return None
        end = _frame_end(tail[place : place + 16], fixed)
        if end is not None:
            return end
    return None


def _frame_end(frame: bytes, fixed: int) -> int | None:
    """Return the sample at which a frame ends, from its header (RFC 9639, section 9.1)."""
    if len(frame) < 16 or frame[1] not in (0xF8, 0xF9) or frame[3] & 1:
        return None
    code = frame[2] >> 4
    number, used = _coded_number(frame[4:])
    if not used or not code:
        return None
    place = 4 + used
    if code in (6, 7):
        block = int.from_bytes(frame[place : place + code - 5], "big") + 1
        place += code - 5
    else:
        block = _BLOCK_SIZES[code]
    rate_code = frame[2] & 15
    place += 1 if rate_code == 12 else 2 if rate_code in (13, 14) else 0
    if rate_code == 15 or place >= len(frame) or _crc8(frame[:place]) != frame[place]:
        return None
    return number + block if frame[1] == 0xF9 else number * fixed + block


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return a number in UTF-8 coding, of up to 36 bits, and its size; (0, 0) if invalid."""
    first = data[0]
    if first < 0x80:
        return first, 1
    count = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= count <= 7:
        return 0, 0
    value = first & (0x7F >> count)
    for byte in data[1:count]:
        if byte & 0xC0 != 0x80:
            return 0, 0
        value = value << 6 | byte & 0x3F
    return value, count


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ _CRC_POLYNOMIAL) & 0xFF if value & 0x80 else value << 1
    return value
