"""WAV headers, parsed and written.

Promises: parses a header from the file's first bytes alone, in a few microseconds, whatever the
bytes; raises `WavError` with a sentence for the uploader if that fails. Covers RIFF, RF64 and BW64,
plain and extensible formats, and the lengths that streaming writers leave.
Refuses to know: samples. The decoder converts them to numbers.
"""

import struct
from dataclasses import dataclass
from typing import Final

Buffer = bytes | bytearray | memoryview

TAG_PCM: Final = 1
TAG_FLOAT: Final = 3
TAG_ALAW: Final = 6
TAG_MULAW: Final = 7
TAG_EXTENSIBLE: Final = 0xFFFE

MIN_RATE_HZ: Final = 1_000
"""Lower rates do not preserve speech (telephony starts at 8 kHz)."""
MAX_RATE_HZ: Final = 768_000
"""Twice the fastest studio converter in use; a higher rate is a broken header."""
MAX_CHANNELS: Final = 256
"""Microphone arrays have up to a few dozen; 65,535 is a broken header."""

_TAGS_ADPCM: Final = (0x02, 0x11)

# Writers that cannot seek back leave 0, 0xFFFFFFFF (ffmpeg), 0x80000000 (arecord), 0x7FFFF000 and
# slightly more (sox) or the same without the header (0x7FFFEFDC) as the length of the data.
_STREAMING_LENGTH_FROM: Final = 0x7FFF_0000
_UINT32_RANGE: Final = 1 << 32
# A header has a handful of chunks; a file of empty ones must not cause a long loop.
_MAX_CHUNKS: Final = 64

_RIFF: Final = struct.Struct("<4sI4s")
_CHUNK: Final = struct.Struct("<4sI")
_FORMAT: Final = struct.Struct("<HHIIHH")
_CANONICAL: Final = struct.Struct("<4sI8sIHHIIHH4sI")
_UINT64: Final = struct.Struct("<Q")


class WavError(ValueError):
    """The bytes are not a usable WAV; the message gives the reason, phrased for the uploader."""


@dataclass(frozen=True, slots=True)
class WavHeader:
    """A WAV's properties according to its header.

    Attributes:
        tag: Sample format: 1 integers, 3 floats, 6 A-law, 7 mu-law; others are compressed.
        channels: Interleaved channels, at least 1.
        rate_hz: Frames per second, MIN_RATE_HZ to MAX_RATE_HZ.
        bits: Bits per sample.
        frame_bytes: Bytes of one sample of every channel (of one block, if compressed).
        byte_rate: Bytes per second of audio.
        data_offset: Offset of the first sample in the file.
        declared_bytes: Length of the samples by the header; None if the writer left it open.
        is_plain: Whether every sample has the same size, and the header does not contradict this,
            so that the samples' size gives the duration.
    """

    tag: int
    channels: int
    rate_hz: int
    bits: int
    frame_bytes: int
    byte_rate: int
    data_offset: int
    declared_bytes: int | None
    is_plain: bool

    def data_bytes(self, size_bytes: int) -> int:
        """Return how many bytes of samples a file of `size_bytes` really holds.

        Beyond 4 GiB the 32-bit length is always wrong (it wraps or stops at its maximum), so the
        file's size is used instead.
        """
        present = max(0, size_bytes - self.data_offset)
        declared = self.declared_bytes
        if declared is None or (declared < _UINT32_RANGE <= present):
            return present
        return min(declared, present)

    def samples_end(self, size_bytes: int) -> int | None:
        """Return where chunks may follow the samples; None if the samples extend to the end."""
        declared = self.declared_bytes
        if declared is None:
            return None
        end = self.data_offset + declared + (declared & 1)
        return end if end < size_bytes else None

    def seconds(self, size_bytes: int) -> float:
        """Return the duration of a file of `size_bytes`, in seconds."""
        return self.data_bytes(size_bytes) / self.byte_rate


def read_wav_header(head: Buffer) -> WavHeader:
    """Parse a WAV header from the first bytes of a file.

    Args:
        head: The start of the file, up to and including the `data` chunk's header.

    Raises:
        WavError: Not a WAV, truncated before its samples, or with impossible values.
    """
    if len(head) >= _CANONICAL.size:
        # Nearly every upload: sixteen bytes of format, then the samples. One unpack.
        (riff, _, wave_fmt, length, tag, channels, rate, byte_rate, frame, bits, data, size) = (
            _CANONICAL.unpack_from(head)
        )
        if riff == b"RIFF" and wave_fmt == b"WAVEfmt " and length == 16 and data == b"data":
            fields = (tag, channels, rate, byte_rate, frame, bits)
            return _header(fields, _CANONICAL.size, _open_length(size))
    return _walk(head)


def _walk(head: Buffer) -> WavHeader:
    if len(head) < _RIFF.size:
        raise WavError("the WAV header is cut short")
    riff, _, wave = _RIFF.unpack_from(head)
    if riff not in (b"RIFF", b"RF64", b"BW64") or wave != b"WAVE":
        raise WavError("not a WAV file")
    fields: tuple[int, int, int, int, int, int] | None = None
    long_length: int | None = None
    at = _RIFF.size
    for _ in range(_MAX_CHUNKS):
        if at + _CHUNK.size > len(head):
            break
        name, size = _CHUNK.unpack_from(head, at)
        body = at + _CHUNK.size
        if name == b"data":
            if fields is None:
                raise WavError("the WAV header does not describe its samples before they start")
            declared = _open_length(size)
            if riff != b"RIFF" and long_length is not None and size == 0xFFFF_FFFF:
                declared = long_length or None
            return _header(fields, body, declared)
        if name == b"fmt " and size >= _FORMAT.size and body + _FORMAT.size <= len(head):
            tag, channels, rate, byte_rate, frame, bits = _FORMAT.unpack_from(head, body)
            if tag == TAG_EXTENSIBLE and size >= 26 and body + 26 <= len(head):
                # The sub-format's GUID starts with the tag it extends.
                tag = int.from_bytes(head[body + 24 : body + 26], "little")
            elif tag in _TAGS_ADPCM and size >= 20 and body + 20 <= len(head):
                # Writers get the byte rate wrong; decoders use the samples per block.
                samples = int.from_bytes(head[body + 18 : body + 20], "little")
                byte_rate = frame * rate // samples if samples else byte_rate
            fields = (tag, channels, rate, byte_rate, frame, bits)
        elif name == b"ds64" and body + 16 <= len(head):
            (long_length,) = _UINT64.unpack_from(head, body + 8)
        at = body + size + (size & 1)
    raise WavError("the WAV header is cut short")


def _open_length(size: int) -> int | None:
    return size if 0 < size < _STREAMING_LENGTH_FROM else None


def _header(
    fields: tuple[int, int, int, int, int, int], data_offset: int, declared: int | None
) -> WavHeader:
    tag, channels, rate_hz, byte_rate, stated_bytes, bits = fields
    frame_bytes = stated_bytes
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise WavError(f"the WAV header gives a sample rate of {rate_hz} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise WavError(f"the WAV header gives {channels} channels")
    if tag in (TAG_PCM, TAG_FLOAT):
        sample_bytes = (bits + 7) // 8
        known = (4, 8) if tag == TAG_FLOAT else (1, 2, 3, 4)
        if sample_bytes not in known:
            raise WavError(f"the WAV header gives {bits} bits per sample")
        # These two follow from the others, and some writers leave them zero.
        frame_bytes = sample_bytes * channels
        byte_rate = frame_bytes * rate_hz
        is_plain = stated_bytes in (0, frame_bytes)
    elif tag in (TAG_ALAW, TAG_MULAW):
        frame_bytes = channels
        byte_rate = frame_bytes * rate_hz
        is_plain = stated_bytes in (0, frame_bytes)
    elif byte_rate == 0 or frame_bytes == 0:
        raise WavError("the WAV header gives a byte rate of zero")
    else:
        is_plain = False
    return WavHeader(
        tag, channels, rate_hz, bits, frame_bytes, byte_rate, data_offset, declared, is_plain
    )


def silence(duration_s: float, rate_hz: int = 16_000) -> bytes:
    """Return a mono 16-bit PCM WAV holding only silence.

    Args:
        duration_s: Length in seconds, greater than 0.
        rate_hz: Samples per second.

    Returns:
        44 header bytes, then 2 * round(duration_s * rate_hz) zero bytes.

    Raises:
        ValueError: duration_s is not positive.
    """
    if not duration_s > 0:
        raise ValueError("duration_s must be greater than 0")
    return pcm16_wav(bytes(2 * round(duration_s * rate_hz)), rate_hz)


def pcm16_wav(pcm: Buffer, rate_hz: int = 16_000) -> bytes:
    """Return mono 16-bit little-endian samples as a WAV file.

    Args:
        pcm: The samples, two bytes each.
        rate_hz: Samples per second.

    Returns:
        44 header bytes, then `pcm`.

    Raises:
        ValueError: Half a sample, or more than a WAV can hold.
    """
    return b"".join((pcm16_header(len(pcm), rate_hz), pcm))


def pcm16_header(size: int, rate_hz: int = 16_000) -> bytes:
    """Return the 44-byte header of a WAV file with `size` bytes of mono 16-bit samples.

    Raises:
        ValueError: Half a sample, or more than a WAV can hold.
    """
    if size % 2 or size >= _UINT32_RANGE - _CANONICAL.size:
        raise ValueError(f"{size} bytes are not the samples of one WAV")
    return _CANONICAL.pack(
        b"RIFF", 36 + size, b"WAVEfmt ", 16, TAG_PCM, 1, rate_hz, 2 * rate_hz, 2, 16, b"data", size
    )
