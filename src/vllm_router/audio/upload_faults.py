"""Faults of an upload that are evident before it is decoded.

Promises: one sentence for the uploader, or None; costs no more than parsing a header. Files without
any audio are rejected. A file that is truncated, or whose header contradicts its size, is damaged:
as much as possible of it is transcribed. Refuses to know: whether the audio itself can be decoded.
"""

import struct
from typing import Final

from vllm_router.audio.containers import aiff, matroska, mp4, mpeg, ogg
from vllm_router.audio.duration import HEAD_BYTES, TAIL_BYTES, container_kind, stated_seconds
from vllm_router.audio.wav import Buffer, WavError, WavHeader, read_wav_header

_PLAUSIBLE_BYTES_PER_S: Final = 100
_ALWAYS_PLAUSIBLE_S: Final = 7200.0
# Writers round lengths to whole blocks, and some include the header: neither is audible.
_SLACK_PARTS_OF_S: Final = 10
_SLACK_BYTES: Final = 64
_WAV_CHUNKS_BEHIND: Final = 16
_SOUND_CHUNKS: Final = frozenset({b"RIFF", b"data"})
# Chunks that may be truncated, or longer than declared, without affecting the audio.
_KNOWN_CHUNKS: Final = _SOUND_CHUNKS | {b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX"}
# Formats that only refer to other files. An engine that opened one would fetch those.
_LISTS: Final = (
    b"#EXTM3U", b"ffconcat", b"[playlist]", b"[Reference]", b"<?xml", b"<MPD", b"<smil", b"<asx",
    b"v=0\r\n", b"v=0\n",
)  # fmt: skip
_MP4_BOXES: Final = frozenset(
    {b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"sidx", b"emsg", b"prft", b"free", b"uuid"}
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def most_plausible_s(size_bytes: int) -> float:
    """Return the longest plausible duration of a file of this size, in seconds.

    A longer one is a decompression bomb. The most efficient speech codecs need 100 bytes a second.
    Two hours are allowed for any file, because silence compresses to almost nothing.
    """
    return max(_ALWAYS_PLAUSIBLE_S, size_bytes / _PLAUSIBLE_BYTES_PER_S)


def audio_refusal(head: Buffer, size_bytes: int) -> str | None:
    """Return why a file has no audio, as one sentence; None if it may have some.

    Args:
        head: The file's first bytes, of which at most HEAD_BYTES are examined.
        size_bytes: Size of the whole file.
    """
    if size_bytes == 0:
        return "The audio file is empty."
    start = bytes(head[:HEAD_BYTES])
    if start.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(_LISTS):
        return "The file is a playlist or a description: it refers to audio but contains none."
    if container_kind(start) != "wav":
        return None
    try:
        header = read_wav_header(start)
    except WavError as error:
        # In an intact file, the chunks before the samples may exceed the examined bytes.
        is_seen = size_bytes <= len(start) or "cut short" not in str(error)
        return f"The audio cannot be read: {error}." if is_seen else None
    if size_bytes - header.data_offset < header.frame_bytes:
        return "The audio file is empty: no samples follow its WAV header."
    return None


def audio_damage(head: Buffer, size_bytes: int, tail: Buffer = b"") -> str | None:
    """Return how a file's own lengths contradict its size, as one sentence; None if they do not.

    Args:
        head: The file's first bytes, of which at most HEAD_BYTES are examined.
        size_bytes: Size of the whole file.
        tail: TAIL_BYTES from `tail_offset` on.
    """
    start = bytes(head[:HEAD_BYTES])
    end = start if size_bytes <= len(start) else bytes(tail[-TAIL_BYTES:])
    kind = container_kind(start)
    try:
        if kind == "wav":
            return _wav_damage(start, size_bytes, end)
        if _is_cut_short(kind, start, size_bytes, end):
            return "The audio file is cut short: it is shorter than its header states."
    except (struct.error, IndexError):
        # The container continues past the given bytes, which show no fault.
        pass
    seconds = stated_seconds(start, size_bytes, end)
    if seconds is not None and seconds > most_plausible_s(size_bytes):
        return f"The audio file's header states {seconds:.0f} s, which is impossible for its size."
    return None


def plain_wav(head: bytes, size_bytes: int) -> WavHeader | None:
    """Return a WAV's header if its size gives its duration; None if it must be decoded.

    Args:
        head: The file's first bytes.
        size_bytes: Size of the whole file.
    """
    if not head.startswith(b"RIFF"):
        return None
    try:
        header = read_wav_header(head)
    except WavError:
        return None
    if not header.is_plain or header.data_bytes(size_bytes) % header.frame_bytes:
        # Engines fail on an incomplete sample, which recorders leave when they are killed.
        return None
    return header if _lengths_agree(header, size_bytes) else None


def is_whole_wav(head: bytes, size_bytes: int, tail: bytes) -> bool:
    """Return whether a WAV's size gives its duration, with or without metadata after the samples.

    Args:
        head: The file's first bytes.
        size_bytes: Size of the whole file.
        tail: From `tail_offset` on.
    """
    try:
        header = read_wav_header(head)
    except WavError:
        return False
    if not header.is_plain or header.data_bytes(size_bytes) < header.frame_bytes:
        return False
    if header.data_bytes(size_bytes) % header.frame_bytes:
        return False
    if header.declared_bytes is None and not head.startswith(b"RIFF"):
        # Engines read nothing from an RF64 file whose length was never written.
        return False
    if _lengths_agree(header, size_bytes):
        return True
    names = _chunks_behind(header, size_bytes, head, tail)
    return names is not None and not _SOUND_CHUNKS & set(names)


def _lengths_agree(header: WavHeader, size_bytes: int) -> bool:
    """Return whether a WAV of `size_bytes` holds exactly the samples that its header declares."""
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


def _wav_damage(head: bytes, size_bytes: int, tail: bytes) -> str | None:
    try:
        header = read_wav_header(head)
    except WavError:
        return None
    declared = header.declared_bytes
    if declared is None or _lengths_agree(header, size_bytes):
        return None
    present = size_bytes - header.data_offset
    is_short = declared > present
    if not is_short and _chunks_behind(header, size_bytes, head, tail) is not None:
        return None
    says = f"The WAV header declares {declared / header.byte_rate:.1f} s of audio but"
    has = f"{present / header.byte_rate:.1f} s follow"
    return f"{says} only {has}: the file is cut short." if is_short else f"{says} {has}."


def _chunks_behind(
    header: WavHeader, size_bytes: int, head: bytes, tail: bytes
) -> list[bytes] | None:
    """Return the names of the chunks after the declared samples; None if no chunks follow."""
    at = header.samples_end(size_bytes)
    if at is None:
        return None
    # The tail of a WAV begins after its samples.
    return chunk_names(head[at:] if at < len(head) else tail, size_bytes - at)


def chunk_names(data: bytes, rest_bytes: int) -> list[bytes] | None:
    """Return the names of the chunks after a WAV's samples, as far as they are visible.

    Args:
        data: The bytes after the samples, or the first of them.
        rest_bytes: Number of bytes after the samples.

    Returns:
        The last is RIFF if another file follows; None if the bytes are not chunks, but apparently
        more samples.
    """
    at = 0
    names: list[bytes] = []
    while len(names) < _WAV_CHUNKS_BEHIND and at + 8 <= min(len(data), rest_bytes):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        is_cut = at + 8 + length > rest_bytes + 1
        if not all(32 <= letter < 127 for letter in name) or (is_cut and name not in _KNOWN_CHUNKS):
            return None
        names.append(name)
        if name == b"RIFF":
            break
        at += 8 + length + (length & 1)
    return names


def _is_cut_short(kind: str, head: bytes, size_bytes: int, tail: bytes) -> bool:
    match kind:
        case "aiff":
            stated = aiff.form_bytes(head)
            # The last chunk's padding byte is often missing.
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
    last = b""
    for name, _, end in mp4.boxes(head, 0, size_bytes):
        has_index = has_index or name == b"moov"
        last, stop = name, end
    if stop > size_bytes:
        # Bytes after the samples that are not a box do not mean that the samples are complete.
        return last in _MP4_BOXES or not has_index
    # The whole file was examined without an index: it would have followed the missing part.
    return not has_index and stop >= size_bytes
