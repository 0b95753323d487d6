"""Whether the duration that a container states is reliable, judged by the file's two ends.

Promises: a reason to decode the file before its duration is trusted, or None; takes less than a
millisecond; never raises, whatever the bytes. A duration without doubt may still be wrong: it
remains a hint. These are unreliable: no duration at all; a duration that contradicts the file's
size, its last frames or its index; fragments after a header; several streams, consecutive or
parallel, of which engines may read a different one than the router. Refuses to know: how to decode.
"""

import struct
from typing import Final

from vllm_router.audio.containers import aiff, flac, matroska, mp4, mpeg, ogg
from vllm_router.audio.duration import HEAD_BYTES, TAIL_BYTES

# The smallest streams that decode to audio, in bytes per second. MP3's lowest rate is 8 kbit/s.
_LEAST_BYTES_PER_S: Final = 12.5
# Codecs of telephones and dictation machines need at least this much for speech, on average.
_LEAST_RECORDED_BYTES_PER_S: Final = 500.0
_LEAST_MP3_BYTES_PER_S: Final = 1000.0


def length_doubt(
    kind: str, head: bytes, size_bytes: int, tail: bytes, seconds: float | None
) -> str | None:
    """Return why a file's duration is unreliable, as part of a sentence; None if nothing shows it.

    Args:
        kind: From `container_kind`.
        head: The file's first bytes, of which at most HEAD_BYTES are examined.
        size_bytes: Size of the whole file.
        tail: TAIL_BYTES from `tail_offset` on.
        seconds: The duration that the container states; None if it states none.
    """
    if seconds is None:
        return "its container states no length"
    if seconds <= 0.0:
        return "its container states a length of zero"
    start = head[:HEAD_BYTES]
    end = start if size_bytes <= len(start) else tail[-TAIL_BYTES:]
    try:
        return _by_kind(kind, start, size_bytes, end, seconds)
    except (struct.error, IndexError):
        return "its container continues past the examined bytes"


def bounded_hint(seconds: float, size_bytes: int) -> float:
    """Return an unreliable duration, bounded by what is typically recorded.

    Digital silence at the start of a stream suggests days of audio, which would fill the queue.
    """
    return min(seconds, size_bytes / _LEAST_RECORDED_BYTES_PER_S)


def may_exceed(kind: str, size_bytes: int, seconds: float) -> bool:
    """Return whether a file of this size can last longer than some seconds."""
    least = _LEAST_MP3_BYTES_PER_S if kind == "mp3" else _LEAST_BYTES_PER_S
    return size_bytes > least * seconds


def _by_kind(kind: str, head: bytes, size_bytes: int, tail: bytes, seconds: float) -> str | None:
    match kind:
        case "wav":
            return "its header contradicts its size, or its samples differ in size"
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
            return "its container has no file header"
