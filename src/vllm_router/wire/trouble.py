"""What is plainly wrong with an upload, before anything decodes it.

Promises: one sentence for the uploader, or None; the cost of reading a header. Catches what the
container's own lengths give away: nothing there, cut short, lengths that contradict the file or
each other. Refuses to know: whether the sound itself decodes.
"""

import struct
from typing import Final

from vllm_router.wire.containers import aiff, matroska, mp4, mpeg, ogg
from vllm_router.wire.duration import HEAD_BYTES, TAIL_BYTES, container_kind, stated_seconds
from vllm_router.wire.wav import Buffer, WavError, WavHeader, read_wav_header

_PLAUSIBLE_BYTES_PER_S: Final = 100
_ALWAYS_PLAUSIBLE_S: Final = 7200.0
# Writers round lengths to whole blocks, and some count the header in: none of it can be heard.
_SLACK_PARTS_OF_S: Final = 10
_SLACK_BYTES: Final = 64
_WAV_CHUNKS_BEHIND: Final = 16


def most_plausible_s(size_bytes: int) -> float:
    """Return how long a file of this size can last, in seconds, before it must be a bomb.

    The leanest speech coders need 100 bytes a second; two hours are granted to any file, for
    silence shrinks to almost nothing.
    """
    return max(_ALWAYS_PLAUSIBLE_S, size_bytes / _PLAUSIBLE_BYTES_PER_S)


def audio_trouble(head: Buffer, size_bytes: int, tail: Buffer = b"") -> str | None:
    """Return what is wrong with a file, as one sentence; None when nothing shows.

    Args:
        head: The file's first bytes, HEAD_BYTES at most are looked at.
        size_bytes: The whole file's size.
        tail: TAIL_BYTES from `tail_offset` on.
    """
    if size_bytes == 0:
        return "The audio file is empty."
    start = bytes(head[:HEAD_BYTES])
    end = start if size_bytes <= len(start) else bytes(tail[-TAIL_BYTES:])
    kind = container_kind(start)
    try:
        if kind == "wav":
            return _wav_trouble(start, size_bytes, end)
        if _is_cut_short(kind, start, size_bytes, end):
            return "The audio file is cut short: it ends before its own lengths say."
    except (struct.error, IndexError):
        # The container goes on past what we were given: nothing shows.
        pass
    seconds = stated_seconds(start, size_bytes, end)
    if seconds is not None and seconds > most_plausible_s(size_bytes):
        return f"The audio file says it lasts {seconds:.0f} s, which its size makes impossible."
    return None


def plain_wav(head: bytes, size_bytes: int) -> WavHeader | None:
    """Return a WAV's header if nothing is wrong with the file; None for all that needs a look.

    Args:
        head: The file's first bytes.
        size_bytes: The whole file's size.
    """
    if not head.startswith(b"RIFF"):
        return None
    try:
        header = read_wav_header(head)
    except WavError:
        return None
    return header if _lengths_agree(header, size_bytes) else None


def _lengths_agree(header: WavHeader, size_bytes: int) -> bool:
    """Say whether a WAV of `size_bytes` holds the samples that its header declares and no more."""
    held = header.data_bytes(size_bytes)
    if held < header.frame_bytes:
        return False
    declared = header.declared_bytes
    if declared is None:
        return True
    present = size_bytes - header.data_offset
    slack = _slack_bytes(header)
    return declared <= present + slack and held >= present - slack


def _slack_bytes(header: WavHeader) -> int:
    # Not by max: that is a call with objects, also when compiled.
    slack = header.byte_rate // _SLACK_PARTS_OF_S
    if slack < header.frame_bytes:
        slack = header.frame_bytes
    return slack if slack > _SLACK_BYTES else _SLACK_BYTES


def _wav_trouble(head: bytes, size_bytes: int, tail: bytes) -> str | None:
    try:
        header = read_wav_header(head)
    except WavError as error:
        # Chunks before the samples may outgrow what we see of a whole file.
        is_seen = size_bytes <= len(head) or "cut short" not in str(error)
        return f"The audio cannot be read: {error}." if is_seen else None
    if _lengths_agree(header, size_bytes):
        return None
    present = size_bytes - header.data_offset
    held = header.data_bytes(size_bytes)
    if held < header.frame_bytes:
        return "The audio file is empty: its WAV header is followed by no samples."
    declared = header.declared_bytes
    assert declared is not None
    is_short = declared > present + _slack_bytes(header)
    if not is_short and _chunks_follow(header, held, size_bytes, head, tail):
        return None
    says = f"The WAV header declares {declared / header.byte_rate:.1f} s of audio but"
    has = f"{present / header.byte_rate:.1f} s follow"
    return f"{says} only {has}: the file is cut short." if is_short else f"{says} {has}."


def _chunks_follow(header: WavHeader, held: int, size_bytes: int, head: bytes, tail: bytes) -> bool:
    """Say whether what stands behind the samples is metadata, as far as can be seen."""
    at = header.data_offset + held + (held & 1)
    for _ in range(_WAV_CHUNKS_BEHIND):
        if at + 8 > size_bytes:
            return True
        if at + 8 <= len(head):
            name, size = head[at : at + 4], head[at + 4 : at + 8]
        elif at >= size_bytes - len(tail):
            inside = at - size_bytes + len(tail)
            name, size = tail[inside : inside + 4], tail[inside + 4 : inside + 8]
        else:
            return True
        length = int.from_bytes(size, "little")
        if not all(32 <= letter < 127 for letter in name):
            return False
        at += 8 + length + (length & 1)
    return True


def _is_cut_short(kind: str, head: bytes, size_bytes: int, tail: bytes) -> bool:
    match kind:
        case "aiff":
            stated = aiff.form_bytes(head)
            # The last chunk's padding byte is often left out.
            return stated is not None and stated > size_bytes + 1
        case "mp4":
            return _mp4_is_cut_short(head, size_bytes)
        case "webm":
            whole = matroska.segment(head)
            return whole is not None and whole[2] is not None and whole[2] > size_bytes
        case "ogg":
            return _ogg_is_cut_short(tail)
        case "mp3":
            found = mpeg.first_frame(head, mpeg.id3_end(head))
            if found is None:
                return False
            stated = mpeg.counted_bytes(head, *found)
            return stated is not None and found[0] + stated > size_bytes + mpeg.LONGEST_FRAME
        case _:
            return False


def _ogg_is_cut_short(tail: bytes) -> bool:
    last = tail.rfind(ogg.MAGIC)
    try:
        return last >= 0 and ogg.page_end(tail, last) > len(tail)
    except struct.error:
        return True


def _mp4_is_cut_short(head: bytes, size_bytes: int) -> bool:
    stop = 0
    has_index = False
    for name, _, end in mp4.boxes(head, 0, size_bytes):
        has_index = has_index or name == b"moov"
        stop = end
    # Seen to its end, and no index: it was to come after what is missing.
    return stop > size_bytes or (not has_index and stop >= size_bytes)
