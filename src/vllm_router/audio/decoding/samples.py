"""An audio file as 16 kHz mono samples, block by block, for a worker process.

Promises: memory that does not depend on the file's length; one sentence (`NotAudio`) for whatever
cannot be decoded or swells beyond belief; a file that is damaged or cut short as far as it goes,
with a sentence about it. Samples follow the container's clock: a gap in it is silence, and sound
that begins late has silence before it. WAV is read directly, all else through PyAV, whose default
sound track counts. Nothing but the given bytes is ever opened: playlists and other formats that
name further files or addresses are not among those allowed. Refuses to know: processes and sockets;
it blocks.
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

# Large enough that the cost of a call vanishes, small beside a piece of 30 s (960,000 bytes).
_BLOCK_BYTES: Final = 512 * 1024
_READ_BYTES: Final = 128 * 1024
# A WAV's samples may start late, behind pictures or cue lists.
_WAV_HEAD_BYTES: Final = 4 * 1024 * 1024
# Demuxers of FFmpeg that may be used. An engine reads any that its PyAV has; these are those in
# which people have speech, which hold their sound themselves, and which can be told by their bytes:
# - containers of recorders, phones, cameras, browsers, broadcasting, dictation and telephony, and
#   bare streams of codecs;
# - not what names further files or addresses (hls, dash, concat, imf, sdp, image sequences);
# - not devices, nor filter graphs, nor raw samples, which any bytes could be;
# - not formats of games and of archives: each is a parser more that a hostile file can reach.
_FORMATS: Final = (
    "aac,ac3,ac4,aiff,amr,amrnb,amrwb,ape,asf,au,avi,avr,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,"
    "gxf,iff,ilbc,ircam,loas,matroska,webm,mlp,mmf,mov,mp4,m4a,mp3,mpc,mpc8,mpeg,mpegts,mxf,"
    "nistsphere,nut,ogg,oma,paf,epaf,pvf,qcp,rm,sds,shn,sox,tak,truehd,tta,voc,w64,wav,wtv,wv,wve,xwma"
)
# Containers whose packets carry the time at which they are to be heard. In others time stamps are
# counted from bytes or frames, which is what counting samples does better.
_CLOCKED: Final = frozenset({"mov", "matroska", "mpegts", "mpeg", "flv", "asf", "ogg", "nut"})
# Jitter of recorders' clocks is less; a pause of a second that is not there is heard.
_LEAST_GAP_S: Final = 0.15
# What jumps further, or back by more, is another clock: a second file behind the first.
_LONGEST_GAP_S: Final = 3600.0
_OTHER_CLOCK_S: Final = 1.0
# PyAV before 19 opens no file whose tags are not UTF-8 unless it is told to; 19 opens each.
_ANY_TAGS: Final[dict[str, Any]] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# With more damaged packets than sound ones, what decodes is chance.
_MAX_BAD_SHARE: Final = 0.5
# Fewer are a scratch, or the place where files were joined.
_NOTABLE_SHARE: Final = 0.01
# Headers that count every sample may promise this much more than there is.
_MISSING_S: Final = 1.0
_MISSING_SHARE: Final = 0.02

_ROUNDING_S: Final = 1.0
"""Decoders pad, resamplers round: nothing is too long by this much."""

_ENDS_EARLY: Final = "The audio file is cut short: its end is missing or cannot be read."

_PCM_TYPES: Final = {
    (wav.TAG_PCM, 1): "u1",
    (wav.TAG_PCM, 2): "<i2",
    (wav.TAG_PCM, 4): "<i4",
    (wav.TAG_FLOAT, 4): "<f4",
    (wav.TAG_FLOAT, 8): "<f8",
}
# As many as anyone joins; each costs a look at its header.
_MAX_JOINED: Final = 1000
# A day of fragments of one second, which have two boxes each.
_MOST_BOXES: Final = 200_000
# Sound for those who hear or see badly: described pictures are not what is said in a film.
_OPEN_HEAD_BYTES: Final = 4096
_AU_MAGIC: Final = b".snd"
_W64_MAGIC: Final = bytes.fromhex("72696666 2e91cf11 a5d628db 04c10000")
_W64_DATA: Final = bytes.fromhex("64617461 f3acd311 8cd100c0 4f8edb8a")
# Frames of AMR in which nobody speaks: comfort noise, and none at all (RFC 4867, section 3.6).
_AMR_PAUSES: Final = {"amrnb": 8, "amr_nb": 8, "amrwb": 9, "amr_wb": 9}
_AMR_FRAME_S: Final = 0.02
_IMPAIRED: Final = Disposition.hearing_impaired | Disposition.visual_impaired
_AV_FORMATS: Final = {"u1": "u8", "i2": "s16", "i4": "s32", "f4": "flt", "f8": "dbl"}
Samples = npt.NDArray[Any]


def _companded() -> dict[int, Samples]:
    """Return the samples that A-law and mu-law bytes stand for (ITU-T G.711), by WAV tag."""
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
    """No demuxer that may be used takes the bytes for its own."""


@dataclass(slots=True)
class ByteRange:
    """A stretch of an open file, read like a file of its own.

    It has its own position: the descriptor's is shared with the process that sent it.

    Attributes:
        patch: Bytes that are read in place of the file's own.
        patch_at: Where.
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
        """Return bytes from `at`, wherever the position is."""
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
    file = _with_open_end(_without_torn_box(file))
    with _opened(file) as container:
        stream = _default_stream(container)
        try:
            for frame in container.decode(stream):
                return int(frame.layout.nb_channels)
        except av.FFmpegError:
            # Whether so much is damaged that nothing can be had is seen when all is decoded.
            return int(stream.codec_context.layout.nb_channels)
    return 1


def read_samples(
    file: ByteRange,
    max_audio_s: float,
    channel: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[bytes]:
    """Yield the file's sound as 16 kHz mono 16-bit samples, in blocks of any size.

    Args:
        file: The upload.
        max_audio_s: Longer audio is refused, in seconds.
        channel: The one to read, from 0; None: all, mixed.
        note: Told, in a sentence each, how the file is damaged.

    Raises:
        NotAudio: Nothing of it can be decoded, or it is longer than allowed; perhaps after some
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
        # Refused before engines are bothered with it, if its header is right.
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
        # That it is cut short says more than what the decoder found in the rest.
        raise NotAudio(damage) from error
    if count == 0:
        raise NotAudio(damage or "The audio file is empty: it holds no sound.")
    wanted_s = _counted_seconds(head, file.size_bytes, tail)
    if not notes and wanted_s - count / RATE_HZ > max(_MISSING_S, _MISSING_SHARE * wanted_s):
        notes.append(
            f"The audio file is cut short: it says that it lasts {wanted_s:.1f} s, "
            f"but ends after {count / RATE_HZ:.1f} s."
        )
    if damage is not None and _ENDS_EARLY in notes:
        notes.remove(_ENDS_EARLY)
    for sentence in dict.fromkeys(notes):
        note(sentence)


class _TooLong(NotAudio):
    """It is longer than allowed, or than can be."""


def _tells_more(head: bytes, size_bytes: int, tail: bytes, max_audio_s: float) -> bool:
    seconds = audio_seconds(head, size_bytes, tail)
    return seconds is not None and seconds > max_audio_s


def _bounded(
    file: ByteRange, head: bytes, max_audio_s: float, channel: int | None, notes: list[str]
) -> Iterator[bytes]:
    """Yield the samples, up to what is allowed.

    Raises:
        NotAudio: It cannot be decoded, or is longer.
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
                f"{limit_s:.0f} s of sound, which is taken for an attack."
            )
        yield block


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
    return header if header.is_plain else None


def _read_wav(
    file: ByteRange, header: wav.WavHeader, channel: int | None, notes: list[str]
) -> Iterator[bytes]:
    """Yield a WAV's samples, all there are: beyond what its header tells, and of joined files."""
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
            notes.append(f"What follows the first WAV file cannot be read: {error}.")
            return
        if not header.is_plain:
            notes.append("What follows the first WAV file is not PCM and was left out.")
            return
        start = following
    notes.append(f"After {_MAX_JOINED} WAV files that were joined the rest was left out.")


def _wav_end(file: ByteRange, start: int, header: wav.WavHeader) -> tuple[int, int | None]:
    """Return where the samples end, and where another WAV file begins behind them."""
    size_bytes = file.size_bytes
    own_bytes = size_bytes - start
    behind = header.samples_end(own_bytes)
    if behind is None:
        return start + header.data_offset + header.data_bytes(own_bytes), None
    at = start + behind
    names = chunk_names(file.peek(at, TAIL_BYTES), size_bytes - at)
    if names is None:
        # The header tells of a part only: writers that could go back once, before the end.
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


def _without_torn_box(file: ByteRange) -> ByteRange:
    """Return an MP4 without the box at its end that is cut short, if FFmpeg gives up at it.

    It reads samples as far as they go, but of an index that is torn it reads nothing, not even the
    fragments before it.
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
    """Return a file whose samples go on to its end where its header has no length yet.

    Recorders that were killed, or that still write, leave zero there, by which FFmpeg reads nothing
    of AU and Wave64. Of WAV, AIFF and CAF it reads all there is.
    """
    head = file.peek(0, _OPEN_HEAD_BYTES)
    if head.startswith(_AU_MAGIC) and head[8:12] == bytes(4):
        return ByteRange(file.fd, file.offset, file.size_bytes, b"\xff" * 4, 8)
    if head.startswith(_W64_MAGIC):
        at = head.find(_W64_DATA)
        size = int.from_bytes(head[at + 16 : at + 24], "little")
        # The size counts the identifier and itself.
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
                # No track whose samples lie in another file.
                "enable_drefs": "0",
            },
        )
    except av.FFmpegError as error:
        raise UnknownFormat(
            "The file is not audio in a format that can be decoded "
            "(wav, mp3, flac, ogg, opus, m4a, mp4, webm and more can)."
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
    # One thread: the worker is one core's work, and audio decoders have no more to do.
    stream.codec_context.thread_count = 1
    good = bad = 0
    is_last_bad = False
    trouble: av.FFmpegError | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            # What came before is sound all the same.
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
        # The empty packet at the end, which has the decoder give what it still holds, says nothing.
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
    """Say whether a packet of AMR tells that nobody speaks, which FFmpeg does not decode."""
    first_pause = _AMR_PAUSES.get(stream.codec_context.name)
    return first_pause is not None and packet.size > 0 and bytes(packet)[0] >> 3 & 15 >= first_pause


def _default_stream(container: Any) -> Any:
    """Return the sound track that players choose: the default one, else the first.

    Raises:
        NotAudio: There is none that can be decoded.
    """
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if not streams:
        raise NotAudio("The file holds no audio stream that can be decoded.")
    for stream in streams:
        disposition = stream.disposition
        if disposition & Disposition.default and not disposition & _IMPAIRED:
            return stream
    return streams[0]


def _starts_at_zero(container: Any, file: ByteRange) -> bool:
    """Say whether a container's clock begins at zero, and not with its first packet.

    Edit lists and durations count from zero. A capture from the middle of a stream has neither.
    """
    names = container.format.name.split(",")
    if "mov" in names:
        return b"moof" not in file.peek(0, HEAD_BYTES)
    return "matroska" in names and bool(container.duration)


class _Clock:
    """Brings decoded frames to the container's clock, as 16 kHz mono samples.

    Where the clock goes on without sound, there is silence. Where it goes back, as in files that
    were joined, or jumps to another time of day, the sound goes on and the clock counts from there.

    Args:
        container: Opened.
        starts_at_zero: Whether its clock does, or else begins with the first packet of any track.
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

        Where packets carry the time, the next one tells.
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
        """Yield what is left at the end."""
        yield from self._counted(self._resampler.flush())


def _silence(samples: int) -> Iterator[bytes]:
    size_bytes = 2 * max(0, samples)
    while size_bytes:
        step = min(size_bytes, _BLOCK_BYTES)
        yield bytes(step)
        size_bytes -= step


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
        # The clock is `_Clock`'s business: here, what comes follows on what came.
        frame.pts = None
        yield from self._bytes(frame)

    def flush(self) -> Iterator[bytes]:
        if self._resampler is not None:
            yield from self._bytes(None)
            self._resampler = self._format = None

    def _bytes(self, frame: Any) -> Iterator[bytes]:
        for out in self._resampler.resample(frame):
            yield bytes(out.planes[0])[: 2 * out.samples]
