"""WebM and Matroska: the Duration in Info, else the time of the last cluster (RFC 9559).

Browser recorders omit Duration because they cannot seek back to write it.
"""

import struct
from collections.abc import Iterator
from typing import Final

MAGIC: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT: Final = 0x18538067
_INFO: Final = 0x1549A966
_TRACKS: Final = 0x1654AE6B
_TRACK_ENTRY: Final = 0xAE
_TRACK_TYPE: Final = 0x83
_SOUND: Final = 2
# Durations include the last frame, positions do not; and audio ends before the picture does.
_TOLERANCE_S: Final = 1.0
_CLUSTER: Final = 0x1F43B675
_CLUSTER_BYTES: Final = b"\x1f\x43\xb6\x75"
_TIMESTAMP_SCALE: Final = 0x2AD7B1
_DURATION: Final = 0x4489
_TIMESTAMP: Final = 0xE7
_SIMPLE_BLOCK: Final = 0xA3
_BLOCK_GROUP: Final = 0xA0
_BLOCK: Final = 0xA1
_NS: Final = 1e-9
_DEFAULT_SCALE_NS: Final = 1_000_000
_MAX_ELEMENTS: Final = 64
_MAX_BLOCKS: Final = 256
_I16 = struct.Struct(">h")

Element = tuple[int, int, int | None]
"""Identifier, start of content, end of content (None: the writer left it open)."""


def elements(data: bytes, at: int, limit: int) -> Iterator[Element]:
    """Yield the elements from `at`, at most `limit`; one of open length is the last."""
    for _ in range(limit):
        if at >= len(data):
            return
        id_bytes = 9 - data[at].bit_length()
        if id_bytes > 4:
            return
        identifier = int.from_bytes(data[at : at + id_bytes], "big")
        at += id_bytes
        if at >= len(data):
            return
        size_bytes = 9 - data[at].bit_length()
        if size_bytes > 8 or at + size_bytes > len(data):
            return
        mask = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(data[at : at + size_bytes], "big") & mask
        body = at + size_bytes
        if size == mask:
            yield identifier, body, None
            return
        at = body + size
        yield identifier, body, at


def segment(head: bytes) -> Element | None:
    """Return the segment: everything after the file's own header."""
    for element in elements(head, 0, _MAX_ELEMENTS):
        if element[0] == _SEGMENT:
            return element
    return None


def matroska_seconds(head: bytes, tail: bytes) -> float | None:
    """Return Duration, or the time between the first and the last cluster."""
    whole = segment(head)
    if whole is None:
        return None
    scale_ns = _DEFAULT_SCALE_NS
    first = 0
    for identifier, body, stop in elements(head, whole[1], _MAX_ELEMENTS):
        if identifier == _INFO and stop is not None:
            duration: float | None = None
            for name, at, end in elements(head[:stop], body, _MAX_ELEMENTS):
                if name == _TIMESTAMP_SCALE:
                    scale_ns = _unsigned(head, at, end) or _DEFAULT_SCALE_NS
                elif name == _DURATION:
                    duration = _float(head[at:end])
            if duration is not None:
                return duration * scale_ns * _NS
        elif identifier == _CLUSTER:
            first = _cluster_start(head, body)
            break
    last = _last_block(tail)
    return max(0, last - first) * scale_ns * _NS if last is not None else None


def matroska_doubt(head: bytes, size_bytes: int, tail: bytes, seconds: float) -> str | None:
    """Return why Duration is unreliable; None if the last cluster ends there.

    Args:
        head: The file's first bytes.
        size_bytes: Size of the whole file.
        tail: Its last bytes.
        seconds: The stated Duration.
    """
    whole = segment(head)
    if whole is None:
        return "its segment is not found"
    if whole[2] is not None and whole[2] < size_bytes:
        return "something follows its segment"
    scale_ns = _DEFAULT_SCALE_NS
    has_duration = False
    sounds = 0
    for identifier, body, stop in elements(head, whole[1], _MAX_ELEMENTS):
        if identifier == _CLUSTER or stop is None:
            break
        for name, at, end in elements(head[:stop], body, _MAX_ELEMENTS):
            if identifier == _INFO and name == _TIMESTAMP_SCALE:
                scale_ns = _unsigned(head, at, end) or _DEFAULT_SCALE_NS
            elif identifier == _INFO and name == _DURATION:
                has_duration = bool(_float(head[at:end]))
            elif identifier == _TRACKS and name == _TRACK_ENTRY and end is not None:
                sounds += _is_sound(head[:end], at)
    if not has_duration:
        return "its header states no duration"
    if sounds != 1:
        return "it holds several sound tracks" if sounds else "its sound track is not found"
    last = _last_block(tail)
    if last is None:
        return "its last cluster is not found"
    is_near = abs(last * scale_ns * _NS - seconds) <= _TOLERANCE_S
    return None if is_near else "its duration contradicts its last cluster"


def _is_sound(data: bytes, body: int) -> bool:
    for name, at, end in elements(data, body, _MAX_ELEMENTS):
        if name == _TRACK_TYPE:
            return _unsigned(data, at, end) == _SOUND
    return False


def _float(raw: bytes) -> float | None:
    if len(raw) not in (4, 8):
        return None
    (value,) = struct.unpack(">f" if len(raw) == 4 else ">d", raw)
    return float(value)


def _unsigned(data: bytes, at: int, stop: int | None) -> int:
    """Return the integer at an offset; eight bytes at most, as the format allows."""
    return int.from_bytes(data[at : min(at + 8, at if stop is None else stop)], "big")


def _cluster_start(data: bytes, body: int) -> int:
    for identifier, at, stop in elements(data, body, _MAX_ELEMENTS):
        if identifier == _TIMESTAMP:
            return _unsigned(data, at, stop)
    return 0


def _last_block(tail: bytes) -> int | None:
    at = tail.rfind(_CLUSTER_BYTES)
    if at < 0:
        return None
    cluster = next(elements(tail, at, 1), None)
    if cluster is None:
        return None
    start: int | None = None
    latest = 0
    for identifier, body, stop in elements(tail, cluster[1], _MAX_BLOCKS):
        if identifier == _TIMESTAMP:
            start = _unsigned(tail, body, stop)
        elif identifier == _SIMPLE_BLOCK:
            latest = max(latest, _block_time(tail, body))
        elif identifier == _BLOCK_GROUP:
            for name, inner, _ in elements(tail, body, 1):
                if name == _BLOCK:
                    latest = max(latest, _block_time(tail, inner))
    return None if start is None else start + latest


def _block_time(data: bytes, body: int) -> int:
    track_bytes = 9 - data[body].bit_length()
    return int(_I16.unpack_from(data, body + track_bytes)[0])
