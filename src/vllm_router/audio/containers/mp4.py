"""MP4, M4A, MOV and 3GP: the audio track's own duration, else the movie's (ISO 14496-12).

The index (`moov`) may precede or follow the samples. Fragmented files state their duration in
`mehd`, in a `sidx` that covers the file, or only in the last fragment.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final

_BOX = struct.Struct(">I4s")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">II")
_REFERENCE = struct.Struct(">III")
#: Duration in the movie's time scale, start in the track, and speed.
_EDIT = struct.Struct(">IiI")
_LONG_EDIT = struct.Struct(">QqI")
_NOTHING_SHOWN: Final = -1
_MAX_EDITS: Final = 64
_MAX_BOXES: Final = 64
# Some writers shorten the last frame, and some in only one of the two places.
_TOLERANCE_S: Final = 0.5
_MAX_REFERENCES: Final = 512
_UNKNOWN: Final = (0, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)

Box = tuple[bytes, int, int]
"""Type, start of content, and end of content by its own length (which may exceed the data)."""


def boxes(data: bytes, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes from `at` that start before `end`, at most 64 of them."""
    for _ in range(_MAX_BOXES):
        if at + _BOX.size > min(end, len(data)):
            return
        size, kind = _BOX.unpack_from(data, at)
        body = at + _BOX.size
        if size == 1:
            if body + 8 > len(data):
                return
            (size,) = _U64.unpack_from(data, body)
            body += 8
        stop = at + size if size else end
        if stop < body:
            return
        yield kind, body, stop
        at = stop


def mp4_seconds(head: bytes, size_bytes: int, tail: bytes) -> float | None:
    """Return the audio track's duration, wherever in `head` or `tail` the index is."""
    sidx: Box | None = None
    moov: tuple[bytes, Box] | None = None
    for box in boxes(head, 0, size_bytes):
        if box[0] == b"moov":
            moov = head, box
        elif box[0] == b"sidx" and sidx is None:
            sidx = box
    if moov is None:
        at = tail.find(b"moov")
        if at < 4:
            return None
        moov = tail, next(boxes(tail, at - 4, len(tail)), (b"", 0, 0))
    movie = _Movie(*moov)
    if movie.seconds is not None:
        return movie.seconds
    seconds = _sidx_seconds(head, sidx, size_bytes) if sidx else None
    if seconds is None and movie.timescale is not None:
        seconds = _fragments_seconds(head, size_bytes, tail, movie)
    return seconds


def mp4_doubt(head: bytes, size_bytes: int, tail: bytes, seconds: float) -> str | None:
    """Return why the audio track's duration is unreliable; None if its sample table agrees.

    Args:
        head: The file's first bytes.
        size_bytes: Size of the whole file.
        tail: From `index_offset` on, or the file's last bytes.
        seconds: As stated by the track's header.
    """
    found: tuple[bytes, Box] | None = None
    kinds = []
    for box in boxes(head, 0, size_bytes):
        kinds.append(box[0])
        if box[0] == b"moov":
            found = head, box
    if b"moof" in kinds or b"sidx" in kinds:
        return "fragments follow its header"
    if kinds.count(b"ftyp") > 1 or kinds.count(b"moov") > 1:
        return "it holds several consecutive files"
    if found is None:
        at = tail.find(b"moov")
        if at < 4:
            return "its index is not found"
        found = tail, next(boxes(tail, at - 4, len(tail)), (b"", 0, 0))
    data, (_, body, stop) = found
    if stop > len(data):
        return "its index is only partly visible"
    sounds: list[float | None] = []
    movie_scale = 0
    pause_s = 0.0
    for kind, at, end in boxes(data, body, stop):
        if kind == b"mvex":
            return "fragments follow its header"
        if kind == b"mvhd":
            movie_scale = _scale_and_units(data, at)[0]
        if kind == b"trak" and _audio_track(data, at, end) is not None:
            sounds.append(_counted_seconds(data, at, end))
            pause_s = _pause_s(data, at, end, movie_scale)
    if len(sounds) != 1:
        return "it holds several sound tracks" if sounds else "its sound track is not found"
    counted = sounds[0]
    if counted is None or abs(counted + pause_s - seconds) > _TOLERANCE_S:
        return "its header contradicts its table of samples"
    return None


def _counted_seconds(data: bytes, body: int, end: int) -> float | None:
    """Return a track's duration from its sample table; None if there is none."""
    media = _inner(data, body, end, b"mdia")
    if media is None:
        return None
    header = _inner(data, media[1], media[2], b"mdhd")
    table: Box | None = media
    for name in (b"minf", b"stbl", b"stts"):
        table = _inner(data, table[1], table[2], name) if table is not None else None
    if header is None or table is None:
        return None
    scale, stated = _scale_and_units(data, header[1])
    if stated in _UNKNOWN:
        return None
    at = table[1] + 8
    count = min(int(_U32.unpack_from(data, table[1] + 4)[0]), (table[2] - at) // 8)
    units = sum(samples * each for samples, each in _PAIR.iter_unpack(data[at : at + 8 * count]))
    return units / scale if scale else None


def _pause_s(data: bytes, body: int, end: int, movie_scale: int) -> float:
    """Return the duration of a track's empty edits, which usually delay late audio."""
    edits = _inner(data, body, end, b"edts")
    entries = None if edits is None else _inner(data, edits[1], edits[2], b"elst")
    if entries is None or not movie_scale:
        return 0.0
    at = entries[1]
    edit = _LONG_EDIT if data[at] else _EDIT
    count = min(int(_U32.unpack_from(data, at + 4)[0]), _MAX_EDITS)
    units = 0
    for number in range(count):
        length, media_time, _ = edit.unpack_from(data, at + 8 + number * edit.size)
        if media_time == _NOTHING_SHOWN:
            units += length
    return units / movie_scale


def _inner(data: bytes, body: int, end: int, kind: bytes) -> "Box | None":
    return next((box for box in boxes(data, body, end) if box[0] == kind), None)


def index_offset(head: bytes, size_bytes: int) -> int | None:
    """Return the offset of the index if it follows the samples, else None."""
    stop = 0
    for kind, _, end in boxes(head, 0, size_bytes):
        if kind in (b"moov", b"moof"):
            return None
        stop = end
    return stop if len(head) <= stop < size_bytes else None


class _Movie:
    """The contents of `moov`: the duration in seconds, or what a fragment needs to derive it."""

    __slots__ = ("seconds", "timescale", "track_id")

    def __init__(self, data: bytes, moov: Box) -> None:
        whole: float | None = None
        movie_scale = 0
        fragments = 0
        pause_s = 0.0
        audio: tuple[int, int, int] | None = None
        for kind, body, stop in boxes(data, moov[1], moov[2]):
            if kind == b"mvhd":
                movie_scale, units = _scale_and_units(data, body)
                whole = _seconds(movie_scale, units)
            elif kind == b"trak" and audio is None:
                audio = _audio_track(data, body, stop)
                pause_s = _pause_s(data, body, stop, movie_scale) if audio else 0.0
            elif kind == b"mvex":
                for name, at, _ in boxes(data, body, stop):
                    if name == b"mehd":
                        fragments = _versioned(data, at, at + 4)
        track_seconds = _seconds(audio[1], audio[2]) if audio else None
        if track_seconds:
            track_seconds += pause_s
        self.seconds = track_seconds or whole or _seconds(movie_scale, fragments)
        self.track_id = audio[0] if audio else 0
        self.timescale = audio[1] if audio else None


def _audio_track(data: bytes, body: int, end: int) -> tuple[int, int, int] | None:
    track_id = scale = units = 0
    is_audio = False
    for kind, at, stop in boxes(data, body, end):
        if kind == b"tkhd":
            (track_id,) = _U32.unpack_from(data, at + (20 if data[at] else 12))
        elif kind == b"mdia":
            for name, inner, _ in boxes(data, at, stop):
                if name == b"mdhd":
                    scale, units = _scale_and_units(data, inner)
                elif name == b"hdlr":
                    is_audio = data[inner + 8 : inner + 12] == b"soun"
    return (track_id, scale, units) if is_audio and scale else None


def _versioned(data: bytes, at: int, value: int) -> int:
    """Return the 32-bit value there, or the 64-bit one if the box at `at` is of version 1."""
    return int((_U64 if data[at] else _U32).unpack_from(data, value)[0])


def _scale_and_units(data: bytes, at: int) -> tuple[int, int]:
    scale = at + (20 if data[at] else 12)
    return int(_U32.unpack_from(data, scale)[0]), _versioned(data, at, scale + 4)


def _seconds(scale: int, units: int) -> float | None:
    return units / scale if scale and units not in _UNKNOWN else None


def _fragments_seconds(head: bytes, size_bytes: int, tail: bytes, movie: "_Movie") -> float | None:
    scale = movie.timescale or 1
    last = _last_fragment(tail, len(tail), movie.track_id)
    if last is not None:
        return last[0] / scale
    # The fragments are too large for the tail: estimate from those in the head.
    last = _last_fragment(head, size_bytes, movie.track_id)
    return last[0] / scale * size_bytes / last[1] if last else None


def _last_fragment(data: bytes, end: int, track_id: int) -> tuple[int, int] | None:
    """Return (time at its end, offset where its samples end) of the track's last fragment."""
    at = len(data)
    for _ in range(_MAX_BOXES):
        at = data.rfind(b"moof", 0, at)
        if at < 4:
            return None
        pair = list(islice(boxes(data, at - 4, end), 2))
        if not pair:
            continue
        fragment = pair[0]
        for name, inner, stop in boxes(data, fragment[1], fragment[2]):
            if name == b"traf":
                units = _fragment_end(data, inner, stop, track_id)
                if units:
                    return units, pair[-1][2]
    return None


def _fragment_end(data: bytes, body: int, end: int, track_id: int) -> int:
    start = each = count = 0
    for kind, at, _ in boxes(data, body, end):
        flags = int.from_bytes(data[at + 1 : at + 4], "big")
        if kind == b"tfhd":
            if _U32.unpack_from(data, at + 4)[0] != track_id:
                return 0
            skip = (8 if flags & 1 else 0) + (4 if flags & 2 else 0)
            if flags & 8:
                (each,) = _U32.unpack_from(data, at + 8 + skip)
        elif kind == b"tfdt":
            start = _versioned(data, at, at + 4)
        elif kind == b"trun":
            (samples,) = _U32.unpack_from(data, at + 4)
            first = at + 8 + (4 if flags & 1 else 0) + (4 if flags & 4 else 0)
            if flags & 0x100 and samples:
                # Individual durations: all audio frames but the last have the same one.
                (each,) = _U32.unpack_from(data, first)
            count += samples
    return start + each * count


def _sidx_seconds(head: bytes, sidx: Box, size_bytes: int) -> float | None:
    _, at, _ = sidx
    (scale,) = _U32.unpack_from(head, at + 8)
    count_at = at + (30 if head[at] else 22)
    count = int.from_bytes(head[count_at : count_at + 2], "big")
    read = min(count, _MAX_REFERENCES)
    units: int = 0
    covered: int = 0
    for i in range(read):
        size, duration, _ = _REFERENCE.unpack_from(head, count_at + 2 + 12 * i)
        covered += size & 0x7FFF_FFFF
        units += duration
    # One sidx per fragment is common too: only one that spans the file states its duration.
    if not read or not scale or covered * count / read < 0.9 * (size_bytes - len(head)):
        return None
    return units * count / (read * int(scale))
