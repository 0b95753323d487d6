"""The number of audio channels that a container states in its first and last bytes.

Promises: a number or None for any bytes, never an exception. It is a hint, good for reserving
capacity and quota: AAC in MP4 states two channels for mono, and only decoding shows the truth.
Refuses to know: which channels are transcribed.
"""

import struct
from typing import Final

from vllm_router.audio.containers import aiff, flac, matroska, mp4, mpeg, ogg
from vllm_router.audio.duration import HEAD_BYTES, container_kind
from vllm_router.audio.wav import WavError, read_wav_header

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_AU_MAGIC: Final = b".snd"
_CAF_MAGIC: Final = b"caff"
_CAF_DESCRIPTION: Final = b"desc"
#: By ADTS index (ISO 14496-3, table 1.19); 0 leaves the number to the stream.
_ADTS_CHANNELS: Final = (0, 1, 2, 3, 4, 5, 6, 8)
_MP3_MONO: Final = 3
# Size of an Ogg page header before its segment table.
_OGG_HEADER_BYTES: Final = 27
_OGG_PAGES: Final = 8
# Preceded by six reserved bytes, an index and, in QuickTime, a version and a vendor.
_MP4_CHANNELS_AT: Final = 16
_MATROSKA_TRACKS: Final = 0x1654AE6B
_MATROSKA_TRACK: Final = 0xAE
_MATROSKA_AUDIO: Final = 0xE1
_MATROSKA_CHANNELS: Final = 0x9F
_MOST_ELEMENTS: Final = 64


def announced_channels(head: bytes, size_bytes: int, tail: bytes = b"") -> int | None:
    """Return how many channels a file states; None if it does not, or its format is unknown.

    If there are several audio tracks, this is the largest number.

    Args:
        head: The file's first bytes, of which at most HEAD_BYTES are examined.
        size_bytes: Size of the whole file.
        tail: From `tail_offset` on, where MP4 may have its index.
    """
    start = head[:HEAD_BYTES]
    try:
        count = _by_kind(start, size_bytes, tail)
    except (struct.error, IndexError, WavError):
        # The container continues past the examined bytes.
        return None
    return count or None


def _by_kind(head: bytes, size_bytes: int, tail: bytes) -> int:
    match container_kind(head):
        case "wav":
            return read_wav_header(head).channels
        case "flac":
            return _flac_channels(head, mpeg.id3_end(head))
        case "mp3":
            found = mpeg.first_frame(head, mpeg.id3_end(head))
            return 0 if found is None else 1 if head[found[0] + 3] >> 6 == _MP3_MONO else 2
        case "ogg":
            return _ogg_channels(head)
        case "mp4":
            return _mp4_channels(head, size_bytes) or _index_channels(tail)
        case "webm":
            return _matroska_channels(head)
        case "aac":
            at = mpeg.id3_end(head)
            return _ADTS_CHANNELS[(head[at + 2] & 1) << 2 | head[at + 3] >> 6]
        case "aiff":
            return aiff.aiff_channels(head) or 0
        case "amr":
            return 1
        case _:
            return _bare_channels(head)


def _bare_channels(head: bytes) -> int:
    if head.startswith(_AU_MAGIC):
        return int(_U32.unpack_from(head, 20)[0])
    if head.startswith(_CAF_MAGIC) and head[8:12] == _CAF_DESCRIPTION:
        # After the rate, the codec, its flags, and the packet sizes.
        return int(_U32.unpack_from(head, 20 + 24)[0])
    return 0


def _flac_channels(head: bytes, at: int) -> int:
    if flac.flac_total(head, at) is None:
        return 0
    return (head[at + 8 + 12] >> 1 & 7) + 1


def _ogg_channels(head: bytes) -> int:
    at = most = 0
    for _ in range(_OGG_PAGES):
        if not head.startswith(ogg.MAGIC, at):
            break
        body = at + _OGG_HEADER_BYTES + head[at + 26]
        if head.startswith(b"OpusHead", body):
            most = max(most, head[body + 9])
        elif head.startswith(b"\x01vorbis", body):
            most = max(most, head[body + 11])
        elif head.startswith(b"\x7fFLAC", body):
            most = max(most, _flac_channels(head, body + 9))
        elif head.startswith(b"Speex   ", body):
            most = max(most, int.from_bytes(head[body + 48 : body + 52], "little"))
        at = ogg.page_end(head, at)
    return most


def _mp4_channels(data: bytes, size_bytes: int) -> int:
    index = next((box for box in mp4.boxes(data, 0, size_bytes) if box[0] == b"moov"), None)
    if index is None:
        return 0
    tracks = [box for box in mp4.boxes(data, index[1], index[2]) if box[0] == b"trak"]
    return max((_track_channels(data, track) for track in tracks), default=0)


def _index_channels(tail: bytes) -> int:
    at = tail.find(b"moov")
    return _mp4_channels(tail[at - 4 :], len(tail) - at + 4) if at >= 4 else 0


def _track_channels(data: bytes, track: mp4.Box) -> int:
    box: mp4.Box | None = track
    for name in (b"mdia", b"minf", b"stbl", b"stsd"):
        if box is None:
            return 0
        inner = list(mp4.boxes(data, box[1], box[2]))
        if name == b"minf" and not any(
            kind == b"hdlr" and data[at + 8 : at + 12] == b"soun" for kind, at, _ in inner
        ):
            return 0
        box = next((each for each in inner if each[0] == name), None)
    if box is None:
        return 0
    most = 0
    for _, at, _ in mp4.boxes(data, box[1] + 8, box[2]):
        most = max(most, int(_U16.unpack_from(data, at + _MP4_CHANNELS_AT)[0]))
    return most


def _matroska_channels(head: bytes) -> int:
    whole = matroska.segment(head)
    if whole is None:
        return 0
    most = 0
    for name, body, stop in matroska.elements(head, whole[1], _MOST_ELEMENTS):
        if name == _MATROSKA_TRACKS and stop is not None:
            for track in _inside(head, body, stop, _MATROSKA_TRACK):
                for sound in _inside(head, *track, _MATROSKA_AUDIO):
                    counts = _inside(head, *sound, _MATROSKA_CHANNELS)
                    # One is the default if the field is absent.
                    told = [int.from_bytes(head[a:b], "big") for a, b in counts]
                    most = max(most, *told, 1)
            break
    return most


def _inside(data: bytes, body: int, stop: int, name: int) -> list[tuple[int, int]]:
    found = matroska.elements(data[:stop], body, _MOST_ELEMENTS)
    return [(at, end) for each, at, end in found if each == name and end is not None]
