"""Decodes an audio file to blocks of 16 kHz mono samples, for a worker process.

Promises: memory use does not depend on the file's length; one sentence (`NotAudio`) for any file
that cannot be decoded or is a decompression bomb; as much as possible of a damaged or truncated
file, with a sentence about it. Samples follow the container's clock: a gap in it becomes silence,
and silence precedes audio that starts late. WAV is read directly, other formats through PyAV, from
the default audio track. Only the given bytes are ever opened: playlists and other formats that
refer to further files or addresses are not allowed. Refuses to know: processes and sockets; it
blocks.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

from vllm_router.audio import wav
from vllm_router.audio.decoding.one_channel import OneChannel, one_of_interleaved
from vllm_router.audio.duration import (
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    stated_seconds,
    tail_offset,
)
from vllm_router.audio.split import RATE_HZ
from vllm_router.audio.upload_faults import (
    audio_damage,
    audio_refusal,
    chunk_names,
    most_plausible_s,
)

# Large enough that the cost of a call is negligible, small compared with a piece of 30 s (960,000
# bytes).
_BLOCK_BYTES: Final = 512 * 1024
_READ_BYTES: Final = 128 * 1024
# A WAV's samples may start late, after pictures or cue lists.
_WAV_HEAD_BYTES: Final = 4 * 1024 * 1024
# The FFmpeg demuxers that may be used. An engine reads any that its PyAV has. These are for formats
# that contain recorded speech, hold their audio themselves, and are identifiable by their bytes:
# - containers of recorders, phones, cameras, browsers, broadcasting, dictation and telephony, and
#   bare codec streams;
# - no formats that refer to further files or addresses (hls, dash, concat, imf, sdp, image
#   sequences);
# - no devices, filter graphs, or raw samples, which could be any bytes;
# - no formats of games and archives: each adds a parser that a hostile file can reach.
_FORMATS: Final = (
    "aac,ac3,ac4,aiff,amr,amrnb,amrwb,ape,asf,au,avi,avr,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,"
    "gxf,iff,ilbc,ircam,loas,matroska,webm,mlp,mmf,mov,mp4,m4a,mp3,mpc,mpc8,mpeg,mpegts,mxf,"
    "nistsphere,nut,ogg,oma,paf,epaf,pvf,qcp,rm,sds,shn,sox,tak,truehd,tta,voc,w64,wav,wtv,wv,wve,xwma"
)
# Containers whose packets have timestamps. Others derive timestamps from bytes or frames, which is
# less accurate than counting samples.
_CLOCKED: Final = frozenset({"mov", "matroska", "mpegts", "mpeg", "flv", "asf", "ogg", "nut"})
# Recorders' clock jitter is smaller; a false pause of a second is audible.
_LEAST_GAP_S: Final = 0.15
# A longer jump, or one further back, is a different clock: a second file after the first.
_LONGEST_GAP_S: Final = 3600.0
_OTHER_CLOCK_S: Final = 1.0
# PyAV before 19 opens files with non-UTF-8 tags only with this option; 19 opens all.
_ANY_TAGS: Final[dict[str, Any]] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# If more packets are damaged than intact, the decoded audio is meaningless.
_MAX_BAD_SHARE: Final = 0.5
# Fewer are a brief defect, or the place where files were joined.
_NOTABLE_SHARE: Final = 0.01
# Headers that state a sample count may exceed the actual one by this much.
_MISSING_S: Final = 1.0
_MISSING_SHARE: Final = 0.02

_ROUNDING_S: Final = 1.0
"""Decoders pad and resamplers round: an excess up to this is no violation of the limit."""

_ENDS_EARLY: Final = "The audio file is cut short: its end is missing or cannot be read."

_PCM_TYPES: Final = {
    (wav.TAG_PCM, 1): "u1",
    (wav.TAG_PCM, 2): "<i2",
    (wav.TAG_PCM, 4): "<i4",
    (wav.TAG_FLOAT, 4): "<f4",
    (wav.TAG_FLOAT, 8): "<f8",
}
# More files than anyone joins; each costs a look at its header.
_MAX_JOINED: Final = 1000
# A day of one-second fragments, which have two boxes each.
_MOST_BOXES: Final = 200_000
_OPEN_HEAD_BYTES: Final = 4096
_AU_MAGIC: Final = b".snd"
_W64_MAGIC: Final = bytes.fromhex("72696666 2e91cf11 a5d628db 04c10000")
_W64_DATA: Final = bytes.fromhex("64617461 f3acd311 8cd100c0 4f8edb8a")
# AMR frames without speech: comfort noise, and no data (RFC 4867, section 3.6).
_AMR_PAUSES: Final = {"amrnb": 8, "amr_nb": 8, "amrwb": 9, "amr_wb": 9}
_AMR_FRAME_S: Final = 0.02
# Tracks for hearing or visually impaired people: an audio description is not the film's dialogue.
_IMPAIRED: Final = Disposition.hearing_impaired | Disposition.visual_impaired
_AV_FORMATS: Final = {"u1": "u8", "i2": "s16", "i4": "s32", "f4": "flt", "f8": "dbl"}
Samples = npt.NDArray[Any]


def _companded() -> dict[int, Samples]:
    """Return the samples that A-law and mu-law bytes represent (ITU-T G.711), by WAV tag."""
    code = np.arange(256)
    a = code ^ 0x55
    segment, low = a >> 4 & 7, (a & 15) << 4
    size = np.where(segment == 0, low + 8, low + 0x108 << np.maximum(segment - 1, 0))
    alaw = np.where(a & 0x80, size, -size)
    u = ~code & 0xFF
    size = (((u & 15) << 3) + 0x84 << (u >> 4 & 7)) - 0x84
    mulaw = np.where(u & 0x80, -size, size)
    return {wav.TAG_ALAW: alaw.astype("<i2"), wav.TAG_MULAW: mulaw.astype("<i2")}


_LAWS: Final = _companded()


class NotAudio(ValueError):
    """The bytes cannot be decoded; the message is one sentence for the uploader."""


class UnknownFormat(NotAudio):
    """No allowed demuxer recognizes the bytes."""


@dataclass(slots=True)
class ByteRange:
    """A range of an open file that behaves like a file.

    It has its own position, because the descriptor's is shared with the process that sent it.

    Attributes:
        patch: Bytes that replace some of the file's own.
        patch_at: Their offset.
    """

    fd: int
    offset: int
    size_bytes: int
    patch: bytes = b""
    patch_at: int = 0
    _at: int = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, at most `count`; none at the end."""
        data = self.peek(self._at, self.size_bytes if count < 0 else count)
        self._at += len(data)
        return data

    def peek(self, at: int, count: int) -> bytes:
        """Return bytes from `at` without moving the position."""
        count = min(count, self.size_bytes - at)
        if count <= 0:
            return b""
        data = os.pread(self.fd, count, self.offset + at)
        start, end = max(at, self.patch_at), min(at + len(data), self.patch_at + len(self.patch))
        if start >= end:
            return data
        own = self.patch[start - self.patch_at : end - self.patch_at]
        return data[: start - at] + own + data[end - at :]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as in files."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


def channel_count(file: ByteRange) -> int:
    """Return the number of channels, determined from the file's first samples.

    Raises:
        NotAudio: It cannot be decoded.
    """
    header = _plain_wav(file) if container_kind(file.peek(0, HEAD_BYTES)) == "wav" else None
    if header is not None:
        return header.channels
    file = _with_open_end(_without_torn_box(file))
    with _opened(file) as container:
        stream = _default_stream(container)
        try:
            for frame in container.decode(stream):
                return int(frame.layout.nb_channels)
        except av.FFmpegError:
            # Only full decoding shows whether too much of the file is damaged.
            return int(stream.codec_context.layout.nb_channels)
    return 1


def read_samples(
    file: ByteRange,
    max_audio_s: float,
    channel: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[bytes]:
    """Yield the file's audio as 16 kHz mono 16-bit samples, in blocks of any size.

    Args:
        file: The upload.
        max_audio_s: Longer audio is rejected, in seconds.
        channel: The channel to read, from 0; None mixes all.
        note: Called with a sentence about each kind of damage.

    Raises:
        NotAudio: None of it can be decoded, or it is longer than allowed; perhaps after some
            blocks.
    """
    head = file.peek(0, HEAD_BYTES)
    tail = file.peek(tail_offset(head, file.size_bytes), TAIL_BYTES)
    refusal = audio_refusal(head, file.size_bytes)
    if refusal is not None:
        raise NotAudio(refusal)
    damage = audio_damage(head, file.size_bytes, tail)
    notes: list[str] = [] if damage is None else [damage]
    if _tells_more(head, file.size_bytes, tail, max_audio_s):
        # If the header is right, the audio is rejected before engines receive any of it.
        for _ in _bounded(file, head, max_audio_s, channel, []):
            pass
    count = 0
    try:
        for block in _bounded(file, head, max_audio_s, channel, notes):
            count += len(block) // 2
            yield block
    except NotAudio as error:
        if damage is None or count or isinstance(error, _TooLong):
            raise
        # Truncation is more informative than the decoder's error about the rest.
        raise NotAudio(damage) from error
    if count == 0:
        raise NotAudio(damage or "The audio file is empty: it contains no audio.")
    wanted_s = _counted_seconds(head, file.size_bytes, tail)
    if not notes and wanted_s - count / RATE_HZ > max(_MISSING_S, _MISSING_SHARE * wanted_s):
        notes.append(
            f"The audio file is cut short: its header states {wanted_s:.1f} s, "
            f"but it ends after {count / RATE_HZ:.1f} s."
        )
    if damage is not None and _ENDS_EARLY in notes:
        notes.remove(_ENDS_EARLY)
    for sentence in dict.fromkeys(notes):
        note(sentence)


class _TooLong(NotAudio):
    """It is longer than allowed, or longer than possible."""


def _tells_more(head: bytes, size_bytes: int, tail: bytes, max_audio_s: float) -> bool:
    seconds = audio_seconds(head, size_bytes, tail)
    return seconds is not None and seconds > max_audio_s


def _bounded(
    file: ByteRange, head: bytes, max_audio_s: float, channel: int | None, notes: list[str]
) -> Iterator[bytes]:
    """Yield the samples, up to the limit.

    Raises:
        NotAudio: It cannot be decoded, or exceeds the limit.
    """
    limit_s = min(max_audio_s, most_plausible_s(file.size_bytes))
    header = _plain_wav(file) if container_kind(head) == "wav" else None
    count = 0
    blocks = (
        _decode(file, channel, notes) if header is None else _read_wav(file, header, channel, notes)
    )
    for block in blocks:
        count += len(block) // 2
        if count > (limit_s + _ROUNDING_S) * RATE_HZ:
            raise _TooLong(
                f"The audio is longer than the {max_audio_s:g} s that are accepted."
                if limit_s >= max_audio_s
                else f"The audio file of {file.size_bytes} bytes unpacks to more than "
                f"{limit_s:.0f} s of audio, which indicates a decompression bomb."
            )
        yield block


def _counted_seconds(head: bytes, size_bytes: int, tail: bytes) -> float:
    """Return the duration from a header with a sample count; else 0."""
    if container_kind(head) != "flac":
        return 0.0
    return stated_seconds(head, size_bytes, tail) or 0.0


def _plain_wav(file: ByteRange) -> wav.WavHeader | None:
    """Return the header of a WAV that needs no decoder; None leaves it to PyAV."""
    try:
        header = wav.read_wav_header(file.peek(0, _WAV_HEAD_BYTES))
    except wav.WavError as error:
        raise NotAudio(f"The audio cannot be read: {error}.") from error
    return header if header.is_plain else None


def _read_wav(
    file: ByteRange, header: wav.WavHeader, channel: int | None, notes: list[str]
) -> Iterator[bytes]:
    """Yield all of a WAV's samples: also beyond the declared ones, and of joined files."""
    start = 0
    for _ in range(_MAX_JOINED):
        begin = start + header.data_offset
        end, following = _wav_end(file, start, header)
        yield from _wav_samples(file, header, channel, begin, end)
        if following is None:
            return
        try:
            header = wav.read_wav_header(file.peek(following, HEAD_BYTES))
        except wav.WavError as error:
            notes.append(f"The data after the first WAV file cannot be read: {error}.")
            return
        if not header.is_plain:
            notes.append("The data after the first WAV file is not PCM and was ignored.")
            return
        start = following
    notes.append(f"Only the first {_MAX_JOINED} of the joined WAV files were read.")


def _wav_end(file: ByteRange, start: int, header: wav.WavHeader) -> tuple[int, int | None]:
    """Return where the samples end, and where another WAV file begins after them."""
    size_bytes = file.size_bytes
    own_bytes = size_bytes - start
    behind = header.samples_end(own_bytes)
    if behind is None:
        return start + header.data_offset + header.data_bytes(own_bytes), None
    at = start + behind
    names = chunk_names(file.peek(at, TAIL_BYTES), size_bytes - at)
    if names is None:
        # The header covers only a part: the writer updated it once, before the end.
        return size_bytes, None
    end = start + header.data_offset + header.data_bytes(own_bytes)
    for name in names:
        if name == b"RIFF":
            return end, at
        length = int.from_bytes(file.peek(at + 4, 4), "little")
        at += 8 + length + (length & 1)
    return end, None


def _wav_samples(
    file: ByteRange, header: wav.WavHeader, channel: int | None, at: int, end: int
) -> Iterator[bytes]:
    frame_bytes = header.frame_bytes
    end = at + (end - at) // frame_bytes * frame_bytes
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
    if header.tag in _LAWS:
        samples = _LAWS[header.tag][np.frombuffer(data, "u1")]
    elif sample_bytes == 3:
        # Into the upper three bytes of four, to keep the sign.
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
        # The channel layout is unknown: all channels have equal weight.
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


def _without_torn_box(file: ByteRange) -> ByteRange:
    """Return an MP4 without a truncated last box, if FFmpeg fails on it.

    FFmpeg reads truncated samples as far as possible. With a truncated index it reads nothing, not
    even the fragments before it.
    """
    if container_kind(file.peek(0, 16)) != "mp4":
        return file
    at = 0
    for _ in range(_MOST_BOXES):
        head = file.peek(at, 16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            break
        if at + size > file.size_bytes:
            is_torn = at > 0 and head[4:8] != b"mdat"
            return ByteRange(file.fd, file.offset, at) if is_torn else file
        at += size
    return file


def _with_open_end(file: ByteRange) -> ByteRange:
    """Return a file whose samples extend to its end, if its header has no length yet.

    Recorders that were killed, or are still writing, leave zero there, and then FFmpeg reads
    nothing from AU and Wave64. From WAV, AIFF and CAF it reads everything.
    """
    head = file.peek(0, _OPEN_HEAD_BYTES)
    if head.startswith(_AU_MAGIC) and head[8:12] == bytes(4):
        return ByteRange(file.fd, file.offset, file.size_bytes, b"\xff" * 4, 8)
    if head.startswith(_W64_MAGIC):
        at = head.find(_W64_DATA)
        size = int.from_bytes(head[at + 16 : at + 24], "little")
        # The size includes the identifier and itself.
        if at > 0 and size <= 24:
            rest = (file.size_bytes - at).to_bytes(8, "little")
            return ByteRange(file.fd, file.offset, file.size_bytes, rest, at + 16)
    return file


def _opened(file: ByteRange) -> Any:
    file.seek(0)
    try:
        return av.open(
            file,
            **_ANY_TAGS,
            buffer_size=_READ_BYTES,
            container_options={
                "format_whitelist": _FORMATS,
                "protocol_whitelist": "none",
                # Ignore tracks whose samples are in another file.
                "enable_drefs": "0",
            },
        )
    except av.FFmpegError as error:
        raise UnknownFormat(
            "The file is not audio in a supported format "
            "(wav, mp3, flac, ogg, opus, m4a, mp4, webm and others)."
        ) from error


def _decode(file: ByteRange, channel: int | None, notes: list[str]) -> Iterator[bytes]:
    file = _with_open_end(_without_torn_box(file))
    with _opened(file) as container:
        clock = _Clock(container, _starts_at_zero(container, file))
        yield from _decode_stream(container, clock, channel, notes)


def _decode_stream(
    container: Any, clock: "_Clock", channel: int | None, notes: list[str]
) -> Iterator[bytes]:
    stream = _default_stream(container)
    picked = None if channel is None else OneChannel(channel)
    # One thread: a worker may use one core, and audio decoders do not need more.
    stream.codec_context.thread_count = 1
    good = bad = 0
    is_last_bad = False
    trouble: av.FFmpegError | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            # Audio decoded before the error is still valid.
            trouble = error
            break
        if packet is None:
            break
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if _is_pause(stream, packet):
                good += 1
                yield from clock.pause(_AMR_FRAME_S)
                continue
            bad += 1
            is_last_bad = True
            continue
        good += 1
        # The empty last packet, which flushes the decoder, is no evidence.
        is_last_bad = is_last_bad and packet.size == 0
        for frame in frames:
            yield from clock.feed(frame if picked is None else picked.of(frame))
    yield from clock.flush()
    if trouble is not None and not clock.has_sound:
        raise NotAudio(f"The audio is damaged: {trouble.strerror}.") from trouble
    if bad > _MAX_BAD_SHARE * (good + bad):
        raise NotAudio(f"The audio is damaged: {bad} of {good + bad} packets cannot be decoded.")
    if trouble is not None or is_last_bad:
        notes.append(_ENDS_EARLY)
    elif bad > _NOTABLE_SHARE * good:
        notes.append(f"The audio is damaged: {bad} of {good + bad} packets cannot be decoded.")


def _is_pause(stream: Any, packet: Any) -> bool:
    """Return whether an AMR packet marks a pause, which FFmpeg does not decode."""
    first_pause = _AMR_PAUSES.get(stream.codec_context.name)
    return first_pause is not None and packet.size > 0 and bytes(packet)[0] >> 3 & 15 >= first_pause


def _default_stream(container: Any) -> Any:
    """Return the audio track that players choose: the default one, else the first.

    Raises:
        NotAudio: There is none that can be decoded.
    """
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if not streams:
        raise NotAudio("The file contains no audio stream that can be decoded.")
    for stream in streams:
        disposition = stream.disposition
        if disposition & Disposition.default and not disposition & _IMPAIRED:
            return stream
    return streams[0]


def _starts_at_zero(container: Any, file: ByteRange) -> bool:
    """Return whether a container's clock starts at zero rather than with its first packet.

    Edit lists and durations count from zero. A recording from the middle of a stream has neither.
    """
    names = container.format.name.split(",")
    if "mov" in names:
        return b"moof" not in file.peek(0, HEAD_BYTES)
    return "matroska" in names and bool(container.duration)


class _Clock:
    """Places decoded frames on the container's clock, as 16 kHz mono samples.

    If the clock advances without audio, silence is inserted. If it goes back, as in joined files,
    or jumps to another time of day, the audio continues and the clock is rebased.

    Args:
        container: The opened container.
        starts_at_zero: Whether its clock starts at zero rather than with the first packet of any
            track.
    """

    def __init__(self, container: Any, starts_at_zero: bool) -> None:
        start_s = (container.start_time or 0) / av.time_base
        length_s = (container.duration or 0) / av.time_base
        self._is_told = not _CLOCKED.isdisjoint(container.format.name.split(","))
        self._origin_s = min(start_s, 0.0) if starts_at_zero else start_s
        self._latest_s = start_s + length_s + _ROUNDING_S if length_s > 0 else None
        self._resampler = _Resampler()
        self._samples = 0
        self._heard_s = 0.0

    @property
    def has_sound(self) -> bool:
        """Whether anything was decoded."""
        return self._heard_s > 0

    def feed(self, frame: Any) -> Iterator[bytes]:
        """Yield the samples that a frame decides, after the silence before it."""
        if frame.pts is not None and frame.time_base is not None:
            at_s = float(frame.pts * frame.time_base) - self._origin_s
            gap_s = at_s - self._heard_s
            is_first = not self._heard_s
            if gap_s > _LEAST_GAP_S and (self._is_told or is_first):
                if self._may_jump(gap_s, at_s):
                    yield from self._counted(self._resampler.flush())
                    yield from self._counted(_silence(round(at_s * RATE_HZ) - self._samples))
                    self._heard_s = at_s
                else:
                    self._origin_s += gap_s
            elif gap_s < -_OTHER_CLOCK_S:
                self._origin_s += gap_s
        self._heard_s += frame.samples / (frame.sample_rate or RATE_HZ)
        yield from self._counted(self._resampler.feed(frame))

    def pause(self, seconds: float) -> Iterator[bytes]:
        """Yield silence for a time of which nothing was decoded.

        If packets have timestamps, the next packet determines the silence instead.
        """
        if self._is_told:
            return
        yield from self._counted(self._resampler.flush())
        self._heard_s += seconds
        yield from self._counted(_silence(round(self._heard_s * RATE_HZ) - self._samples))

    def _may_jump(self, gap_s: float, at_s: float) -> bool:
        if self._latest_s is not None and at_s > self._latest_s:
            return False
        return gap_s <= _LONGEST_GAP_S

    def _counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._samples += len(block) // 2
            yield block

    def flush(self) -> Iterator[bytes]:
        """Yield the remaining samples at the end."""
        yield from self._counted(self._resampler.flush())


def _silence(samples: int) -> Iterator[bytes]:
    size_bytes = 2 * max(0, samples)
    while size_bytes:
        step = min(size_bytes, _BLOCK_BYTES)
        yield bytes(step)
        size_bytes -= step


class _Resampler:
    """Converts any frames to 16 kHz mono, across format changes within a file."""

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
        # `_Clock` handles timestamps: here, frames are simply consecutive.
        frame.pts = None
        yield from self._bytes(frame)

    def flush(self) -> Iterator[bytes]:
        if self._resampler is not None:
            yield from self._bytes(None)
            self._resampler = self._format = None

    def _bytes(self, frame: Any) -> Iterator[bytes]:
        for out in self._resampler.resample(frame):
            yield bytes(out.planes[0])[: 2 * out.samples]
