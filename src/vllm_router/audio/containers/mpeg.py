"""MP3 (and MPEG layers 1 and 2): Xing, Info and VBRI headers, else the frames' own bit rate.

Sources: ISO 11172-3 and 13818-3 for the frame header, the Xing and VBRI header descriptions by
K. Windisch ("MPEG Audio Frame Header"), id3.org for the tags, the APEv2 specification.
"""

import struct
from dataclasses import dataclass
from typing import Final

_BITRATES: Final = {
    # (is MPEG-1, layer): kbit/s by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES: Final = (44_100, 48_000, 32_000)
_MAX_SYNC_TRIES: Final = 64
# Enough frames to distinguish constant from variable bit rates, and to average the latter.
_FRAMES_AVERAGED: Final = 48
_MAX_TAGS: Final = 4
_U32 = struct.Struct(">I")
LONGEST_FRAME: Final = 2881
"""Bytes: MPEG-2.5 layer 2, 160 kbit/s at 8 kHz."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame's header: layout (`key`), samples, size, and the offset of a Xing header."""

    key: tuple[int, int]
    rate_hz: int
    samples: int
    size_bytes: int
    side_info_bytes: int


def frame_at(data: bytes, at: int) -> Frame | None:
    """Parse the frame header at `at`; None if there is none, or if its bit rate is free."""
    word = int.from_bytes(data[at : at + 4], "big")
    if len(data) < at + 4 or word >> 21 != 0x7FF:
        return None
    version, layer_bits = word >> 19 & 3, word >> 17 & 3
    rate_index, bitrate_index = word >> 10 & 3, word >> 12 & 15
    if version == 1 or layer_bits == 0 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    layer = 4 - layer_bits
    is_v1 = version == 3
    rate_hz = _RATES[rate_index] >> (0 if is_v1 else 1 if version == 2 else 2)
    bitrate = 1000 * _BITRATES[is_v1, layer][bitrate_index]
    padding = word >> 9 & 1
    if layer == 1:
        samples, size = 384, (12 * bitrate // rate_hz + padding) * 4
    else:
        samples = 576 if layer == 3 and not is_v1 else 1152
        size = samples // 8 * bitrate // rate_hz + padding
    is_mono = word >> 6 & 3 == 3
    side_info = (17 if is_mono else 32) if is_v1 else (9 if is_mono else 17)
    return Frame((version, layer), rate_hz, samples, size, side_info)


def id3_end(head: bytes) -> int:
    """Return where the ID3v2 tags at the start end; this may exceed `head`."""
    at = 0
    for _ in range(_MAX_TAGS):
        if head[at : at + 3] != b"ID3" or len(head) < at + 10:
            break
        a, b, c, d = head[at + 6 : at + 10]
        size = (a & 127) << 21 | (b & 127) << 14 | (c & 127) << 7 | (d & 127)
        at += 10 + size + (10 if head[at + 5] & 0x10 else 0)
    return at


def first_frame(data: bytes, at: int) -> tuple[int, Frame] | None:
    """Find the first frame from `at` that is followed by another of its kind."""
    for _ in range(_MAX_SYNC_TRIES):
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        frame = frame_at(data, at)
        if frame is not None:
            following = frame_at(data, at + frame.size_bytes)
            if following is not None and following.key == frame.key:
                return at, frame
        at += 1
    return None


def mpeg_seconds(head: bytes, size_bytes: int, tail: bytes) -> float | None:
    """Return the duration from a Xing, Info or VBRI header, else from the frames' bit rate."""
    start = id3_end(head)
    sound_bytes = size_bytes - start - _trailing_tags(tail)
    if start >= len(head):
        # A picture in the tag fills the whole head: the last frames have the same bit rate.
        found = first_frame(tail, 0)
        return _by_bitrate(tail, *found, sound_bytes) if found else None
    found = first_frame(head, start)
    if found is None:
        return None
    at, frame = found
    frames = counted_frames(head, at, frame)
    if frames:
        return frames * frame.samples / frame.rate_hz
    return _by_bitrate(head, at, frame, sound_bytes - (at - start))


def mpeg_doubt(head: bytes, size_bytes: int, tail: bytes) -> str | None:
    """Return why the stated duration is unreliable; None if a header counts frames and bytes.

    Args:
        head: The file's first bytes.
        size_bytes: Size of the whole file.
        tail: Its last bytes.
    """
    found = first_frame(head, id3_end(head))
    if found is None:
        return "its first frame is not found"
    if not counted_frames(head, *found):
        return "no header counts its frames"
    stated = counted_bytes(head, *found)
    if stated is None:
        return "no header counts its bytes"
    held = size_bytes - found[0] - _trailing_tags(tail)
    # Some writers exclude the header's own frame.
    return None if abs(stated - held) <= 2 * LONGEST_FRAME else "its header contradicts its size"


def counted_frames(head: bytes, at: int, frame: Frame) -> int | None:
    """Return the number of frames that the header in the first frame states."""
    xing = at + 4 + frame.side_info_bytes
    if head[xing : xing + 4] in (b"Xing", b"Info"):
        has_count = head[xing + 7] & 1
        return int(_U32.unpack_from(head, xing + 8)[0]) if has_count else None
    vbri = at + 36
    if head[vbri : vbri + 4] == b"VBRI":
        return int(_U32.unpack_from(head, vbri + 14)[0])
    return None


def counted_bytes(head: bytes, at: int, frame: Frame) -> int | None:
    """Return the number of bytes, from the first frame to the last, that the header states."""
    xing = at + 4 + frame.side_info_bytes
    if head[xing : xing + 4] in (b"Xing", b"Info") and head[xing + 7] & 2:
        has_frames = head[xing + 7] & 1
        return int(_U32.unpack_from(head, xing + (12 if has_frames else 8))[0])
    if head[at + 36 : at + 40] == b"VBRI":
        return int(_U32.unpack_from(head, at + 36 + 10)[0])
    return None


def _by_bitrate(data: bytes, at: int, frame: Frame, sound_bytes: int) -> float | None:
    begin, samples = at, 0
    following: Frame | None = frame
    for _ in range(_FRAMES_AVERAGED):
        if following is None:
            break
        samples += following.samples
        at += following.size_bytes
        following = frame_at(data, at)
    return max(0, sound_bytes) * samples / ((at - begin) * frame.rate_hz)


def _trailing_tags(tail: bytes) -> int:
    size = 128 if tail[-128:-125] == b"TAG" else 0
    footer = tail[len(tail) - size - 32 : len(tail) - size]
    if footer[:8] == b"APETAGEX":
        has_header = footer[23] & 0x80
        size += int.from_bytes(footer[12:16], "little") + (32 if has_header else 0)
    return size
