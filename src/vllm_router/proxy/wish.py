"""What a client asked for: the format, whether streamed, how events shall look. Pure.

What an engine may know better is left to it: an unknown `response_format` is passed on as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vllm_router.errors import UnsupportedValue
from vllm_router.proxy.facts import RequestFacts
from vllm_router.wire.formats import ResponseFormat

#: vLLM takes both; OpenAI's own clients send the first.
_GRANULARITIES: Final = ("timestamp_granularities[]", "timestamp_granularities")


class StreamFormat(StrEnum):
    """How the events of a streamed answer look."""

    OPENAI = "openai"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be answered.

    Attributes:
        format: None when it is one that only the engine may know.
        is_stream: Whether as events.
        stream_format: How the events look.
        wants_words: Whether times of single words are asked for.
        wants_segments: Whether segments are asked for beside the text.
        language: As the client gave it; None: it is to be found.
        is_batch: Whether others may go first.
    """

    format: ResponseFormat | None
    is_stream: bool
    stream_format: StreamFormat
    wants_words: bool
    wants_segments: bool
    language: str | None
    is_batch: bool

    @property
    def needs_times(self) -> bool:
        """Whether the answer needs to know when each segment was said."""
        is_timed = self.format in (
            ResponseFormat.SRT,
            ResponseFormat.VTT,
            ResponseFormat.VERBOSE_JSON,
        )
        return is_timed or self.wants_words or (self.is_stream and self.wants_segments)


def read_wish(
    facts: RequestFacts,
    default_stream_format: StreamFormat,
    stream_format: bytes | None,
    priority: bytes | None,
) -> Wish:
    """Return what a request asks for.

    Args:
        facts: With the form.
        default_stream_format: When the request names none.
        stream_format: Its X-Stream-Format header.
        priority: Its X-Priority header.

    Raises:
        UnsupportedValue: It asks for something that does not exist.
    """
    name = facts.text("response_format")
    try:
        kind = ResponseFormat(name) if name is not None else ResponseFormat.JSON
    except ValueError:
        kind = None
    granularities: set[str] = set()
    for part in facts.form.parts:
        if part.name in _GRANULARITIES and part.value:
            granularities.add(part.value.decode("utf-8", "replace").strip())
    if granularities and granularities - {"", "word", "segment"}:
        raise UnsupportedValue(
            "'timestamp_granularities[]' may be 'segment' or 'word'.",
            param="timestamp_granularities[]",
        )
    return Wish(
        format=kind,
        is_stream=facts.is_true("stream"),
        stream_format=_stream_format(default_stream_format, stream_format),
        wants_words="word" in granularities,
        wants_segments="segment" in granularities,
        language=facts.text("language"),
        is_batch=_is_batch(priority),
    )


def _stream_format(default: StreamFormat, header: bytes | None) -> StreamFormat:
    if header is None:
        return default
    try:
        return StreamFormat(header.decode("latin-1").strip().lower())
    except ValueError as e:
        raise UnsupportedValue(
            "'X-Stream-Format' may be 'openai' or 'vllm'.", param="X-Stream-Format"
        ) from e


def _is_batch(header: bytes | None) -> bool:
    if header is None:
        return False
    word = header.decode("latin-1").strip().lower()
    if word not in ("batch", "normal", "interactive"):
        raise UnsupportedValue("'X-Priority' may be 'batch' or 'normal'.", param="X-Priority")
    return word == "batch"
