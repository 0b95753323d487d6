"""Ogg with Opus, Vorbis, FLAC or Speex: the granule position of the last page (RFC 3533).

A file of several consecutive streams (chained) does not state a total duration: None.
"""

import struct
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"OggS"
_PAGE = struct.Struct("<4sBBqIIIB")
_OPUS_RATE_HZ: Final = 48_000
_BEGINS_STREAM: Final = 2
_MAX_STREAMS: Final = 8
_MAX_LAST_PAGES: Final = 64
# A page holds at most 255 packets of 120 ms. A larger first position means a recording from the
# middle of a live stream, whose clock did not start at zero.
_LONGEST_PAGE_S: Final = 31.0


@dataclass(frozen=True, slots=True)
class _Stream:
    serial: int
    rate_hz: int
    pre_skip: int


def ogg_seconds(head: bytes, tail: bytes) -> float | None:
    """Return the duration of the first audio stream, from its last page's position."""
    stream, at = _audio_stream(head)
    if stream is None:
        return None
    last = _last_position(tail, stream.serial)
    if last is None:
        return None
    first = _first_position(head, at, stream)
    return max(0, last - first) / stream.rate_hz


def ogg_doubt(head: bytes, size_bytes: int, tail: bytes) -> str | None:
    """Return why the last page's position is unreliable; None if one stream has no gaps.

    Args:
        head: The file's first bytes.
        size_bytes: Size of the whole file.
        tail: Its last bytes.
    """
    streams, at = _streams(head)
    sounds = [stream for stream in streams.values() if stream is not None]
    if len(sounds) != 1:
        return "it holds several sound streams" if sounds else "its sound stream is not known"
    (sound,) = sounds
    numbers: dict[int, int] = {}
    position = 0
    place = 0
    while place + _PAGE.size <= len(head):
        magic, _, flags, here, serial, number, _, _ = _PAGE.unpack_from(head, place)
        end = page_end(head, place)
        if magic != MAGIC:
            return "its pages are not consecutive"
        if serial not in streams or (flags & _BEGINS_STREAM and place >= at):
            return "another stream follows"
        if number != numbers.get(serial, -1) + 1:
            return "pages are missing"
        numbers[serial] = number
        if serial == sound.serial and here >= 0:
            if not 0 <= here - position <= _LONGEST_PAGE_S * sound.rate_hz:
                return "its clock jumps"
            position = here
        place = end
    if size_bytes <= len(head):
        return None
    return _unseen_doubt(head, size_bytes, tail, sound, position)


def _unseen_doubt(
    head: bytes, size_bytes: int, tail: bytes, sound: "_Stream", position: int
) -> str | None:
    """Return why the part between head and tail is unreliable: another stream may begin there."""
    last = _last_position(tail, sound.serial)
    if last is None or not position:
        return "its last page is not found"
    expected = position * size_bytes / len(head)
    return None if 0.5 * expected <= last <= 2 * expected else "its size contradicts its last page"


def _streams(head: bytes) -> "tuple[dict[int, _Stream | None], int]":
    """Return the streams at the file's start by serial number; None for those without audio."""
    at = 0
    found: dict[int, _Stream | None] = {}
    for _ in range(_MAX_STREAMS):
        magic, _, flags, _, serial, _, _, count = _PAGE.unpack_from(head, at)
        if magic != MAGIC or not flags & _BEGINS_STREAM:
            break
        found[serial] = _identify(head, at + _PAGE.size + count, serial)
        at = page_end(head, at)
    return found, at


def page_end(data: bytes, at: int) -> int:
    """Return where the page at `at` ends by its own lengths; past `data` if it is truncated.

    Raises:
        struct.error: Its header is truncated.
    """
    count = int(_PAGE.unpack_from(data, at)[7])
    lengths = data[at + _PAGE.size : at + _PAGE.size + count]
    if len(lengths) < count:
        raise struct.error("page header cut short")
    return at + _PAGE.size + count + sum(lengths)


def _audio_stream(head: bytes) -> tuple[_Stream | None, int]:
    at, found = 0, None
    for _ in range(_MAX_STREAMS):
        magic, _, flags, _, serial, _, _, count = _PAGE.unpack_from(head, at)
        if magic != MAGIC or not flags & _BEGINS_STREAM:
            break
        body = at + _PAGE.size + count
        if found is None:
            found = _identify(head, body, serial)
        at = page_end(head, at)
    return found, at


def _identify(head: bytes, body: int, serial: int) -> _Stream | None:
    if head.startswith(b"OpusHead", body):
        pre_skip = int.from_bytes(head[body + 10 : body + 12], "little")
        return _Stream(serial, _OPUS_RATE_HZ, pre_skip)
    if head.startswith(b"\x01vorbis", body):
        rate_hz = int.from_bytes(head[body + 12 : body + 16], "little")
    elif head.startswith(b"\x7fFLAC", body):
        rate_hz = int.from_bytes(head[body + 27 : body + 30], "big") >> 4
    elif head.startswith(b"Speex   ", body):
        rate_hz = int.from_bytes(head[body + 36 : body + 40], "little")
    else:
        return None
    return _Stream(serial, rate_hz, 0) if rate_hz else None


def _first_position(head: bytes, at: int, stream: _Stream) -> int:
    for _ in range(_MAX_STREAMS):
        if len(head) < at + _PAGE.size:
            break
        magic, _, _, position, serial, _, _, _ = _PAGE.unpack_from(head, at)
        if magic != MAGIC:
            break
        if serial == stream.serial and position > 0:
            is_broadcast = position > _LONGEST_PAGE_S * stream.rate_hz
            return int(position) if is_broadcast else stream.pre_skip
        at = page_end(head, at)
    return stream.pre_skip


def _last_position(tail: bytes, serial: int) -> int | None:
    at = len(tail)
    for _ in range(_MAX_LAST_PAGES):
        at = tail.rfind(MAGIC, 0, at)
        if at < 0:
            return None
        if len(tail) >= at + _PAGE.size:
            _, version, _, position, its_serial, _, _, _ = _PAGE.unpack_from(tail, at)
            if version == 0 and its_serial == serial and position >= 0:
                return int(position)
    return None
