"""What a client requests: the format, streaming, and the format of events. Pure.

Values that an engine may know are left to it: an unknown `response_format` is passed on unchanged.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from vllm_router.audio.announced_channels import announced_channels
from vllm_router.audio.channels import MAX_CHANNELS, Channels
from vllm_router.audio.duration import HEAD_BYTES, TAIL_BYTES, tail_offset
from vllm_router.audio.upload_faults import plain_wav
from vllm_router.errors import UnsupportedValue
from vllm_router.formats.formats import ResponseFormat
from vllm_router.requests.transcription_request import WAV_HEAD_BYTES, TranscriptionRequest
from vllm_router.spool.upload import Upload

#: vLLM accepts both; OpenAI's own clients send the first.
_GRANULARITIES: Final = ("timestamp_granularities[]", "timestamp_granularities")


#: Assumed number of channels, before decoding, if each is to be transcribed separately.
_USUAL_CHANNELS: Final = 2


class StreamFormat(StrEnum):
    """The format of a streamed response's events."""

    OPENAI = "openai"
    VLLM = "vllm"


class ResponseOptions(NamedTuple):
    """The requested response.

    Attributes:
        format: None if only the engine may know the format.
        is_stream: Whether to respond with events.
        stream_format: Format of the events.
        wants_words: Whether word timestamps are requested.
        wants_segments: Whether segments are requested in addition to the text.
        language: As given by the client; None: to be detected.
        is_batch: Whether other work takes precedence.
        channels: Channels to transcribe.
        names: Names of the speakers, in channel order.
        is_diarized: Whether the engine is to tell apart speakers who do not have separate channels;
            the format is then the engine's.
    """

    format: ResponseFormat | None
    is_stream: bool
    stream_format: StreamFormat
    wants_words: bool
    wants_segments: bool
    language: str | None
    is_batch: bool
    channels: Channels = Channels.MIX
    names: tuple[str, ...] = ()
    is_diarized: bool = False

    @property
    def needs_times(self) -> bool:
        """Whether the response needs the times of segments."""
        is_timed = self.format in (
            ResponseFormat.SRT,
            ResponseFormat.VTT,
            ResponseFormat.VERBOSE_JSON,
            ResponseFormat.DIARIZED_JSON,
        )
        return is_timed or self.wants_words or (self.is_stream and self.wants_segments)


def read_response_options(
    request: TranscriptionRequest,
    default_stream_format: StreamFormat,
    stream_format: bytes | None,
    priority: bytes | None,
    default_channels: Channels = Channels.MIX,
) -> ResponseOptions:
    """Return the options of a request.

    Args:
        request: The request and its form.
        default_stream_format: Used if the request names none.
        stream_format: Its X-Stream-Format header.
        priority: Its X-Priority header.
        default_channels: Used if the request names none.

    Raises:
        UnsupportedValue: An option has an unknown value, or two options contradict each other.
    """
    name = request.text("response_format")
    try:
        kind = ResponseFormat(name) if name is not None else ResponseFormat.JSON
    except ValueError:
        kind = None
    channels = _channels(request.text("channels"), default_channels)
    if kind is ResponseFormat.DIARIZED_JSON and channels in (Channels.LEFT, Channels.RIGHT):
        # Engines mix the channels, so they would tell speakers apart in the wrong audio.
        raise UnsupportedValue(
            f"'channels={channels}' selects one channel and cannot be combined with "
            "'response_format=diarized_json'. Send 'channels=each' for one speaker per channel, or "
            "use 'verbose_json'.",
            param="channels",
        )
    is_diarized = kind is ResponseFormat.DIARIZED_JSON and channels is not Channels.EACH
    if is_diarized:
        kind = None
    granularities: set[str] = set()
    for part in request.form.parts:
        if part.name in _GRANULARITIES and part.value:
            granularities.add(part.value.decode("utf-8", "replace").strip())
    if granularities and granularities - {"", "word", "segment"}:
        raise UnsupportedValue(
            "'timestamp_granularities[]' must be 'segment' or 'word'.",
            param="timestamp_granularities[]",
        )
    return ResponseOptions(
        format=kind,
        is_stream=request.is_true("stream"),
        stream_format=_stream_format(default_stream_format, stream_format),
        wants_words="word" in granularities,
        wants_segments="segment" in granularities,
        language=request.text("language"),
        is_batch=_is_batch(priority),
        channels=channels,
        names=_names(request) if kind is ResponseFormat.DIARIZED_JSON else (),
        is_diarized=is_diarized,
    )


def told_channels(request: TranscriptionRequest, upload: Upload) -> int | None:
    """Return the number of channels of a plain WAV; None: known only after decoding."""
    size_bytes = request.file.end - request.file.start
    header = plain_wav(upload.read(request.file.start, min(size_bytes, WAV_HEAD_BYTES)), size_bytes)
    return None if header is None else header.channels


def must_choose(request: TranscriptionRequest, options: ResponseOptions, upload: Upload) -> bool:
    """Return whether an upload must be decoded to select or separate its channels.

    Engines mix them. An upload with one channel needs no decoding, unless its speaker is to be
    named.
    """
    if options.channels is Channels.MIX:
        return False
    is_diarized = options.format is ResponseFormat.DIARIZED_JSON
    return is_diarized or told_channels(request, upload) != 1


def most_channels(request: TranscriptionRequest, channels: Channels, upload: Upload) -> int:
    """Return an upload's maximum work as a multiple of its length, as far as known.

    The number of channels that the container declares is used for reservations until decoding.
    """
    if channels is not Channels.EACH:
        return 1
    count = told_channels(request, upload) or _announced(request, upload) or _USUAL_CHANNELS
    return min(count, MAX_CHANNELS)


def reserved_seconds(request: TranscriptionRequest, upload: Upload, default: Channels) -> float:
    """Return the seconds of audio charged to a key until they have been measured.

    Args:
        request: The request and its form.
        upload: The bytes.
        default: The channels transcribed if the request names none.

    Raises:
        UnsupportedValue: The request names unknown channels.
    """
    channels = _channels(request.text("channels"), default)
    return request.hint.seconds * most_channels(request, channels, upload)


def _announced(request: TranscriptionRequest, upload: Upload) -> int | None:
    start, size_bytes = request.file.start, request.file.end - request.file.start
    head = upload.read(start, min(size_bytes, HEAD_BYTES))
    offset = tail_offset(head, size_bytes)
    tail = upload.read(start + offset, min(TAIL_BYTES, size_bytes - offset))
    return announced_channels(head, size_bytes, tail)


def _channels(value: str | None, default: Channels) -> Channels:
    if value is None:
        return default
    try:
        return Channels(value.lower())
    except ValueError as e:
        raise UnsupportedValue(
            "'channels' must be 'mix', 'left', 'right' or 'each'.", param="channels"
        ) from e


def _names(request: TranscriptionRequest) -> tuple[str, ...]:
    names = request.form.values("known_speaker_names[]") or request.form.values(
        "known_speaker_names"
    )
    return tuple(name.decode("utf-8", "replace").strip() for name in names)


def _stream_format(default: StreamFormat, header: bytes | None) -> StreamFormat:
    if header is None:
        return default
    try:
        return StreamFormat(header.decode("latin-1").strip().lower())
    except ValueError as e:
        raise UnsupportedValue(
            "'X-Stream-Format' must be 'openai' or 'vllm'.", param="X-Stream-Format"
        ) from e


def _is_batch(header: bytes | None) -> bool:
    if header is None:
        return False
    word = header.decode("latin-1").strip().lower()
    if word not in ("batch", "normal", "interactive"):
        raise UnsupportedValue("'X-Priority' must be 'batch' or 'normal'.", param="X-Priority")
    return word == "batch"
