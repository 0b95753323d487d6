"""Whether the length that a container tells can be relied on, as far as its ends show.

Promises: a reason to decode the file before its length is believed, or None; less than a
millisecond; for any bytes, never an exception. A length without a doubt may still be wrong: it
stays a hint. Doubtful are: no length at all; a length that the file's size, its last frames or its
index contradict; fragments after a header; several streams, one behind the other or side by side,
of which engines may read another one than the router. Refuses to know: how to decode.
"""

import struct
from typing import Final

from vllm_router.audio.containers import aiff, flac, matroska, mp4, mpeg, ogg
from vllm_router.audio.duration import HEAD_BYTES, TAIL_BYTES

# The leanest streams that decode to sound, in bytes per second. MP3 knows no rate below 8 kbit/s.
_LEAST_BYTES_PER_S: Final = 12.5
# What telephones and dictation machines make of speech takes as much at least, on the whole.
_LEAST_RECORDED_BYTES_PER_S: Final = 500.0
_LEAST_MP3_BYTES_PER_S: Final = 1000.0


def length_doubt(
    kind: str, head: bytes, size_bytes: int, tail: bytes, seconds: float | None
) -> str | None:
    """Return why a file's length is doubtful, as part of a sentence; None: nothing speaks for it.

    Args:
        kind: By `container_kind`.
        head: The file's first bytes, HEAD_BYTES at most are looked at.
        size_bytes: The whole file's size.
        tail: TAIL_BYTES from `tail_offset` on.
        seconds: The length that the container tells; None if it tells none.
    """
    if seconds is None:
        return "its container tells no length"
    if seconds <= 0.0:
        return "its container tells a length of zero"
    start = head[:HEAD_BYTES]
    end = start if size_bytes <= len(start) else tail[-TAIL_BYTES:]
    try:
        return _by_kind(kind, start, size_bytes, end, seconds)
    except (struct.error, IndexError):
        return "its container goes on past what was looked at"


def bounded_hint(seconds: float, size_bytes: int) -> float:
    """Return a doubtful length, bounded by what people record.

    Digital silence at the start of a stream promises days of it, and a queue would have no room.
    """
    return min(seconds, size_bytes / _LEAST_RECORDED_BYTES_PER_S)


def may_exceed(kind: str, size_bytes: int, seconds: float) -> bool:
    """Return whether a file of this size can last longer than some seconds."""
    least = _LEAST_MP3_BYTES_PER_S if kind == "mp3" else _LEAST_BYTES_PER_S
    return size_bytes > least * seconds


def _by_kind(kind: str, head: bytes, size_bytes: int, tail: bytes, seconds: float) -> str | None:
    match kind:
        case "wav":
            return "its header contradicts its size, or its samples are not all alike"
        case "flac":
            return flac.flac_doubt(head, mpeg.id3_end(head), size_bytes, tail)
        case "mp3":
            return mpeg.mpeg_doubt(head, size_bytes, tail)
        case "ogg":
            return ogg.ogg_doubt(head, size_bytes, tail)
        case "mp4":
            return mp4.mp4_doubt(head, size_bytes, tail, seconds)
        case "webm":
            return matroska.matroska_doubt(head, size_bytes, tail, seconds)
        case "aiff":
            return aiff.aiff_doubt(head, size_bytes)
        case _:
            return "its container has no header for the whole"
