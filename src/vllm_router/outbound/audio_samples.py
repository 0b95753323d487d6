"""An audio file as 16 kHz mono samples, block by block, for a worker process.

Promises: memory that does not depend on the file's length; one sentence (`NotAudio`) for whatever
cannot be decoded, is cut short or swells beyond belief. WAV is read directly, all else through
PyAV. Nothing but the given bytes is ever opened: playlists and other formats that name further
files or addresses are not among those allowed. Refuses to know: processes and sockets; it blocks.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from vllm_router.outbound.audio_channels import OneChannel, one_of_interleaved
from vllm_router.wire import wav
from vllm_router.wire.duration import (
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    stated_seconds,
    tail_offset,
)
from vllm_router.wire.split import RATE_HZ
from vllm_router.wire.trouble import audio_trouble, most_plausible_s

# Large enough that the cost of a call vanishes, small beside a piece of 30 s (960,000 bytes).
_BLOCK_BYTES: Final = 512 * 1024
_READ_BYTES: Final = 128 * 1024
# A WAV's samples may start late, behind pictures or cue lists.
_WAV_HEAD_BYTES: Final = 4 * 1024 * 1024
_FORMATS: Final = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,matroska,webm,"
    "mov,mp4,m4a,mp3,mpc,mpeg,mpegts,ogg,opus,tta,w64,wav,wv"
)
# PyAV before 19 opens no file whose tags are not UTF-8 unless it is told to; 19 opens each.
_ANY_TAGS: Final[dict[str, Any]] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# One damaged packet in ten is a file that no one should trust; fewer are a scratch.
_MAX_BAD_SHARE: Final = 0.1
# Headers that count every sample may promise this much more than there is.
_MISSING_S: Final = 1.0
_MISSING_SHARE: Final = 0.02

_ROUNDING_S: Final = 1.0
"""Decoders pad, resamplers round: nothing is too long by this much."""

_PCM_TYPES: Final = {
    (wav.TAG_PCM, 1): "u1",
    (wav.TAG_PCM, 2): "<i2",
    (wav.TAG_PCM, 4): "<i4",
    (wav.TAG_FLOAT, 4): "<f4",
    (wav.TAG_FLOAT, 8): "<f8",
}
_AV_FORMATS: Final = {"u1": "u8", "i2": "s16", "i4": "s32", "f4": "flt", "f8": "dbl"}
Samples = npt.NDArray[Any]


class NotAudio(ValueError):
    """The bytes cannot be decoded; the message is one sentence for the uploader."""


@dataclass(slots=True)
class ByteRange:
    """A stretch of an open file, read like a file of its own.

    It has its own position: the descriptor's is shared with the process that sent it.
    """

    fd: int
    offset: int
    size_bytes: int
    _at: int = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, at most `count`; none at the end."""
        data = self.peek(self._at, self.size_bytes if count < 0 else count)
        self._at += len(data)
        return data

    def peek(self, at: int, count: int) -> bytes:
        """Return bytes from `at`, wherever the position is."""
        count = min(count, self.size_bytes - at)
        return os.pread(self.fd, count, self.offset + at) if count > 0 else b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as files do."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


def channel_count(file: ByteRange) -> int:
    """Return how many channels the file's sound has, by its first samples.

    Raises:
        NotAudio: It cannot be decoded.
    """
    header = _plain_wav(file) if container_kind(file.peek(0, HEAD_BYTES)) == "wav" else None
    if header is not None:
        return header.channels
    with _opened(file) as container:
        try:
            for frame in container.decode(_best(container)):
                return int(frame.layout.nb_channels)
        except av.FFmpegError:
            # Whether so much is damaged that nothing can be had is seen when all is decoded.
            return int(_best(container).codec_context.layout.nb_channels)
    return 1


def read_samples(
    file: ByteRange, max_audio_s: float, channel: int | None = None
) -> Iterator[bytes]:
    """Yield the file's sound as 16 kHz mono 16-bit samples, in blocks of any size.

    Args:
        file: The upload.
        max_audio_s: Longer audio is refused, in seconds.
        channel: The one to read, from 0; None: all, mixed.

    Raises:
        NotAudio: It cannot be decoded, or is longer than allowed; perhaps after some blocks.
    """
    head = file.peek(0, HEAD_BYTES)
    tail = file.peek(tail_offset(head, file.size_bytes), TAIL_BYTES)
    trouble = audio_trouble(head, file.size_bytes, tail)
    if trouble is not None:
        raise NotAudio(trouble)
    seconds = audio_seconds(head, file.size_bytes, tail)
    if seconds is not None and seconds > max_audio_s:
        raise NotAudio(_too_long(max_audio_s))
    wanted_s = _counted_seconds(head, file.size_bytes, tail)
    limit_s = min(max_audio_s, most_plausible_s(file.size_bytes))
    header = _plain_wav(file) if container_kind(head) == "wav" else None
    count = 0
    blocks = _decode(file, channel) if header is None else _read_wav(file, header, channel)
    for block in blocks:
        count += len(block) // 2
        if count > (limit_s + _ROUNDING_S) * RATE_HZ:
            raise NotAudio(
                _too_long(max_audio_s)
                if limit_s >= max_audio_s
                else f"The audio file of {file.size_bytes} bytes unpacks to more than "
                f"{limit_s:.0f} s of sound, which is taken for an attack."
            )
        yield block
    if count == 0:
        raise NotAudio("The audio file is empty: it holds no sound.")
    if wanted_s - count / RATE_HZ > max(_MISSING_S, _MISSING_SHARE * wanted_s):
        raise NotAudio(
            f"The audio file is cut short: it says that it lasts {wanted_s:.1f} s, "
            f"but ends after {count / RATE_HZ:.1f} s."
        )


def _too_long(max_audio_s: float) -> str:
    return f"The audio is longer than the {max_audio_s:g} s that are accepted."


def _counted_seconds(head: bytes, size_bytes: int, tail: bytes) -> float:
    """Return the length by a header that counted the samples themselves; else 0."""
    if container_kind(head) != "flac":
        return 0.0
    return stated_seconds(head, size_bytes, tail) or 0.0


def _plain_wav(file: ByteRange) -> wav.WavHeader | None:
    """Return the header of a WAV that needs no decoder; None leaves it to PyAV."""
    try:
        header = wav.read_wav_header(file.peek(0, _WAV_HEAD_BYTES))
    except wav.WavError as error:
        raise NotAudio(f"The audio cannot be read: {error}.") from error
    return header if header.tag in (wav.TAG_PCM, wav.TAG_FLOAT) else None


def _read_wav(file: ByteRange, header: wav.WavHeader, channel: int | None) -> Iterator[bytes]:
    frame_bytes = header.frame_bytes
    at = header.data_offset
    end = at + header.data_bytes(file.size_bytes) // frame_bytes * frame_bytes
    step = max(1, _BLOCK_BYTES // frame_bytes) * frame_bytes
    is_as_wanted = (
        header.tag == wav.TAG_PCM
        and header.channels == 1
        and frame_bytes == 2
        and header.rate_hz == RATE_HZ
    )
    resampler = _Resampler()
    while at < end:
        data = file.peek(at, min(step, end - at))
        if not data:
            break
        at += len(data)
        if is_as_wanted:
            yield data
        else:
            frame = _wav_frame(data[: len(data) // frame_bytes * frame_bytes], header, channel)
            yield from resampler.feed(frame)
    yield from resampler.flush()


def _wav_frame(data: bytes, header: wav.WavHeader, channel: int | None) -> av.AudioFrame:
    sample_bytes = header.frame_bytes // header.channels
    samples: Samples
    if sample_bytes == 3:
        # Into the upper three bytes of four, so that the sign stays.
        wide = np.zeros((len(data) // 3, 4), "u1")
        wide[:, 1:] = np.frombuffer(data, "u1").reshape(-1, 3)
        samples = wide.view("<i4").reshape(-1)
    else:
        samples = np.frombuffer(data, _PCM_TYPES[header.tag, sample_bytes])
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    channels = header.channels
    if channel is not None:
        samples, channels = one_of_interleaved(samples, channels, channel), 1
    if channels > 2:
        # No layout is known to be meant: all channels count the same.
        mixed = samples.reshape(-1, channels).mean(axis=1)
        samples = mixed.astype(samples.dtype)
        channels = 1
    frame = av.AudioFrame.from_ndarray(
        samples.reshape(1, -1),
        format=_AV_FORMATS[samples.dtype.str[1:]],
        layout="stereo" if channels == 2 else "mono",
    )
    frame.sample_rate = header.rate_hz
    return frame


def _opened(file: ByteRange) -> Any:
    file.seek(0)
    try:
        return av.open(
            file,
            **_ANY_TAGS,
            buffer_size=_READ_BYTES,
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"},
        )
    except av.FFmpegError as error:
        raise NotAudio(
            "The file is not audio in a format that can be decoded "
            "(wav, mp3, flac, ogg, opus, m4a, mp4, webm and more can)."
        ) from error


def _best(container: Any) -> Any:
    stream = container.streams.best("audio")
    if stream is None:
        raise NotAudio("The file holds no audio stream.")
    return stream


def _decode(file: ByteRange, channel: int | None) -> Iterator[bytes]:
    with _opened(file) as container:
        try:
            yield from _decode_stream(container, channel)
        except av.FFmpegError as error:
            raise NotAudio(f"The audio is damaged: {error.strerror}.") from error


def _decode_stream(container: Any, channel: int | None) -> Iterator[bytes]:
    stream = _best(container)
    # One thread: the worker is one core's work, and audio decoders have no more to do.
    stream.codec_context.thread_count = 1
    resampler = _Resampler()
    picked = None if channel is None else OneChannel(channel)
    good = bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            bad += 1
            continue
        good += 1
        for frame in frames:
            yield from resampler.feed(frame if picked is None else picked.of(frame))
    yield from resampler.flush()
    if bad > _MAX_BAD_SHARE * (good + bad):
        raise NotAudio(f"The audio is damaged: {bad} of {good + bad} packets cannot be decoded.")


class _Resampler:
    """Any frames to 16 kHz mono, through changes of format within a file."""

    def __init__(self) -> None:
        self._format: tuple[Any, ...] | None = None
        self._resampler: Any = None

    def feed(self, frame: Any) -> Iterator[bytes]:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._format:
            yield from self.flush()
            if not wav.MIN_RATE_HZ <= frame.sample_rate <= wav.MAX_RATE_HZ:
                raise NotAudio(f"The audio has a sample rate of {frame.sample_rate} Hz.")
            self._resampler = av.AudioResampler("s16", "mono", RATE_HZ)
            self._format = shape
        # Time stamps play no part: what is there follows on what was there.
        frame.pts = None
        yield from self._bytes(frame)

    def flush(self) -> Iterator[bytes]:
        if self._resampler is not None:
            yield from self._bytes(None)
            self._resampler = self._format = None

    def _bytes(self, frame: Any) -> Iterator[bytes]:
        for out in self._resampler.resample(frame):
            yield bytes(out.planes[0])[: 2 * out.samples]
